//! What every command starts from: its configuration, its folders, its log.
//!
//! Invariant: layers are read in one place and in one order. Called by `cli`.

use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::args::Options;
use super::exit::{Exit, Failure};
use crate::config::{Color, Config, ConfigError, Folders, Layer, LogFormat};

/// The start of a command.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) folders: Folders,
    pub(crate) layer: Layer,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) progress: bool,
}

impl Setup {
    /// Reads the layers: flags, variables, the file. The state folder's own file comes with
    /// [`Setup::config`].
    pub(crate) fn of(options: &Options) -> anyhow::Result<Self> {
        let folders = Folders::of_process();
        let mut flags = options.layer();
        flags.resolve_paths(&std::env::current_dir().unwrap_or_default());
        let mut variables = Layer::from_env(|name| std::env::var_os(name)).map_err(usage)?;
        variables.resolve_paths(&std::env::current_dir().unwrap_or_default());
        let named = options
            .config
            .clone()
            .or_else(|| std::env::var_os("PXFS_CONFIG").map(PathBuf::from));
        let file = match named {
            Some(path) => Layer::from_file(&path).map_err(usage)?,
            None => optional(&folders.config_file())?,
        };
        Ok(Self {
            layer: flags.over(variables).over(file),
            folders,
            json: options.json,
            quiet: options.quiet,
            progress: !options.quiet && !options.no_progress,
        })
    }

    /// The configuration for the state folder that the layers name, with the file in that folder
    /// (which `pxfs demo` writes) below all others.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        self.config_in(None)
    }

    /// As [`Setup::config`], in `state_dir` when no layer names one.
    pub(crate) fn config_in(&self, state_dir: Option<&Path>) -> anyhow::Result<Config> {
        let mut layer = self.layer.clone();
        if layer.state_dir.is_none() {
            layer.state_dir = state_dir.map(Path::to_owned);
        }
        let state = layer
            .state_dir
            .clone()
            .unwrap_or_else(|| self.folders.state.clone());
        let mut layer = layer.over(optional(&state.join("config.toml"))?);
        layer.read_url_file().map_err(usage)?;
        Ok(Config::resolve(layer, &self.folders))
    }

    /// Starts the log on stderr.
    pub(crate) fn start_log(&self, default: &str) -> anyhow::Result<()> {
        let wanted = self.layer.log.as_deref().unwrap_or(match self.quiet {
            true => "error",
            false => default,
        });
        // A bare level is meant for pxfs; the libraries below are loud at debug.
        let filter = match wanted.contains(['=', ',']) {
            true => wanted.to_owned(),
            false => format!("warn,pxfs={wanted}"),
        };
        let filter = EnvFilter::try_new(&filter).map_err(|_| {
            Failure::new(
                Exit::Usage,
                format!("--log {wanted}: say error, warn, info, debug or trace"),
            )
        })?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_target(false)
            .with_ansi(self.colorful())
            .with_writer(std::io::stderr);
        let started = match self.layer.log_format.unwrap_or(LogFormat::Text) {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().try_init(),
        };
        started.map_err(|fault| anyhow::anyhow!("log: {fault}"))
    }

    /// Whether to colour what goes to stderr.
    pub(crate) fn colorful(&self) -> bool {
        use std::io::IsTerminal;
        match self.layer.color.unwrap_or(Color::Auto) {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
            }
        }
    }
}

fn optional(path: &Path) -> anyhow::Result<Layer> {
    match path.try_exists() {
        Ok(false) => Ok(Layer::default()),
        _ => Layer::from_file(path).map_err(usage),
    }
}

fn usage(error: ConfigError) -> anyhow::Error {
    Failure::new(Exit::Usage, error.to_string()).into()
}
