//! What every command starts from: configuration, folders, log.
//!
//! Invariant: layers are read in one place and order.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

use super::log::{Journal, Lines, NoInterrupted, Stderr, is_journal};
use super::options::Options;
use crate::config::{Color, Config, ConfigError, Folders, Layer, LogFormat};
use crate::exit::{Exit, Failure};

pub(crate) struct Setup {
    pub(crate) folders: Folders,
    pub(crate) explicit: Layer,
    /// Flags, variables and the configuration file.
    pub(crate) layer: Layer,
    pub(crate) drive: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) progress: bool,
    /// Receives new log filters.
    log: OnceLock<Reload>,
    pub(crate) stderr: Arc<Stderr>,
    /// The named configuration file.
    named: Option<PathBuf>,
}

type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

impl Setup {
    /// Reads flags, variables and the file. [`Setup::config`] adds the state folder's own file.
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
        let named = named.map(|path| std::path::absolute(&path).unwrap_or(path));
        let drive = std::env::var_os("PXFS_DRIVE").filter(|path| !path.is_empty());
        let file = read_file(named.as_deref(), &folders)?;
        let explicit = flags.over(variables);
        Ok(Self {
            layer: explicit.clone().over(file),
            explicit,
            log: OnceLock::new(),
            stderr: Arc::default(),
            named,
            drive: options.drive.clone().or(drive.map(PathBuf::from)),
            folders,
            json: options.json,
            quiet: options.quiet,
            progress: !options.quiet && !options.no_progress,
        })
    }

    /// The configuration, with the state folder's own file (written by `pxfs demo`) below all
    /// layers.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let state = self
            .layer
            .state_dir
            .clone()
            .unwrap_or_else(|| self.folders.state.clone());
        let mut layer = self
            .layer
            .clone()
            .over(optional(&state.join("config.toml"))?);
        layer.read_url_file().map_err(usage)?;
        Ok(Config::resolve(layer, &self.folders))
    }

    /// What this command was told itself: flags, variables, and a named file.
    pub(crate) fn told(&self) -> &Layer {
        match self.named {
            Some(_) => &self.layer,
            None => &self.explicit,
        }
    }

    /// As [`Setup::config`]; without any configuration, the demo's, if there is one.
    pub(crate) fn config_or_demo(&self) -> anyhow::Result<Config> {
        let config = self.config()?;
        let demo = self.folders.demo();
        if !config.rpc.is_empty()
            || self.layer.state_dir.is_some()
            || !demo.join("config.toml").exists()
        {
            return Ok(config);
        }
        let mut layer = self.layer.clone();
        layer.state_dir = Some(demo.clone());
        let layer = layer.over(optional(&demo.join("config.toml"))?);
        Ok(Config::resolve(layer, &self.folders))
    }

    /// Starts the log on stderr, once: a command that asks first calls this twice.
    pub(crate) fn start_log(&self, default: &str) -> anyhow::Result<()> {
        if self.log.get().is_some() {
            return Ok(());
        }
        let wanted =
            self.layer
                .log
                .as_deref()
                .unwrap_or(if self.quiet { "error" } else { default });
        let (filter, handle) = reload::Layer::new(filter(wanted)?);
        let form = fmt::layer()
            .with_target(false)
            .with_ansi(self.colorful())
            .with_writer(Lines(Arc::clone(&self.stderr)));
        let registry = tracing_subscriber::registry()
            .with(filter)
            .with(NoInterrupted);
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let started = match self.layer.log_format.unwrap_or(LogFormat::Text) {
            LogFormat::Json => registry.with(form.json()).try_init(),
            LogFormat::Text if is_journal(stream.as_deref()) => registry
                .with(form.event_format(Journal).with_ansi(false))
                .try_init(),
            LogFormat::Text => registry.with(form).try_init(),
        };
        started.map_err(|fault| anyhow::anyhow!("log: {fault}"))?;
        // Nobody else starts one.
        let _ = self
            .log
            .set(Box::new(move |filter| handle.reload(filter).is_ok()));
        Ok(())
    }

    /// Reads the configuration file again; only the log level takes effect.
    pub(crate) fn reload_log(&self) {
        let read = self.config_file().and_then(|file| {
            let layer = self.explicit.clone().over(file);
            filter(layer.log.as_deref().unwrap_or("info"))
        });
        match read {
            Err(error) => tracing::error!("{error:#}: the configuration stays as it was"),
            Ok(filter) => {
                if self.log.get().is_some_and(|set| set(filter)) {
                    tracing::info!("read the configuration again");
                }
            }
        }
    }

    fn config_file(&self) -> anyhow::Result<Layer> {
        read_file(self.named.as_deref(), &self.folders)
    }

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

fn read_file(named: Option<&Path>, folders: &Folders) -> anyhow::Result<Layer> {
    match named {
        Some(path) => Layer::from_file(path).map_err(usage),
        None => optional(&folders.config_file()),
    }
}

fn filter(wanted: &str) -> anyhow::Result<EnvFilter> {
    // A bare level is for pxfs, because the libraries are loud at debug.
    let text = if wanted.contains(['=', ',']) {
        wanted.to_owned()
    } else {
        format!("warn,pxfs={wanted}")
    };
    EnvFilter::try_new(&text).map_err(|_| {
        let line = format!("--log {wanted}: use error, warn, info, debug or trace");
        Failure::new(Exit::Usage, line).into()
    })
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
