//! Default folders: XDG, or the system's for a service.
//!
//! Invariant: computed from a given environment, so tests need no global.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The default folders of this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Durable state: `$XDG_STATE_HOME/pxfs`, or `/var/lib/pxfs` for a service.
    pub state: PathBuf,
    /// Cache: `$XDG_CACHE_HOME/pxfs`, or `/var/cache/pxfs`.
    pub cache: PathBuf,
    /// Configuration: `$XDG_CONFIG_HOME/pxfs`, or `/etc/pxfs`.
    pub config: PathBuf,
    /// Socket folders, best first; a client looks in all.
    pub runtime: Vec<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY` of systemd.
    pub credentials: Option<PathBuf>,
}

impl Folders {
    /// From the variables that `get` returns; `uid` is the effective user.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        let var = |name: &str| {
            get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        // systemd gives a service its folders; the first of a list is ours.
        let service = |name: &str| {
            let list = get(name)?.into_string().ok()?;
            let first = PathBuf::from(list.split(':').next()?);
            first.is_absolute().then_some(first)
        };
        let home = var("HOME").unwrap_or_else(|| PathBuf::from("/root"));
        let below = |name: &str, fallback: &str| {
            var(name)
                .unwrap_or_else(|| home.join(fallback))
                .join("pxfs")
        };
        let state =
            service("STATE_DIRECTORY").unwrap_or_else(|| below("XDG_STATE_HOME", ".local/state"));
        let mut runtime: Vec<PathBuf> = Vec::new();
        let places = [
            service("RUNTIME_DIRECTORY"),
            var("XDG_RUNTIME_DIR").map(|folder| folder.join("pxfs")),
            Some(state.join("run")),
            Some(PathBuf::from(format!("/run/user/{uid}/pxfs"))),
            Some(PathBuf::from("/run/pxfs")),
        ];
        for place in places.into_iter().flatten() {
            if !runtime.contains(&place) {
                runtime.push(place);
            }
        }
        Self {
            cache: service("CACHE_DIRECTORY").unwrap_or_else(|| below("XDG_CACHE_HOME", ".cache")),
            config: service("CONFIGURATION_DIRECTORY")
                .unwrap_or_else(|| below("XDG_CONFIG_HOME", ".config")),
            credentials: var("CREDENTIALS_DIRECTORY"),
            state,
            runtime,
        }
    }

    /// The folders of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::from_env(
            |name| std::env::var_os(name),
            rustix::process::geteuid().as_raw(),
        )
    }

    /// The default configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The state folder of `pxfs demo`.
    #[must_use]
    pub fn demo(&self) -> PathBuf {
        self.state.join("demo")
    }

    /// The systemd credential `name`, if any.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<PathBuf> {
        let path = self.credentials.as_deref().map(|dir: &Path| dir.join(name));
        path.filter(|path| path.exists())
    }
}
