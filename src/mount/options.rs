//! Parses `-o`.
//!
//! Invariant: an unknown word is refused, never ignored; words for `mount(8)`, fstab or systemd are
//! known and change nothing.

use std::time::Duration;

use super::MountError;
use super::errno::Full;

/// How the mount behaves; the default is a mount without `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Read-only mount (`ro`).
    pub read_only: bool,
    /// Other users may enter (`allow_other`).
    pub allow_other: bool,
    /// The kernel checks permissions even if only root may enter (`default_permissions`); otherwise
    /// it always does.
    pub default_permissions: bool,
    /// Owner to show instead of the stored one (`uid=`).
    pub uid: Option<u32>,
    /// Group to show instead of the stored one (`gid=`).
    pub gid: Option<u32>,
    /// Permission bits to hide (`umask=`, octal).
    pub umask: Option<u16>,
    /// Source that `df` and `mount` show (`fsname=`).
    pub fsname: String,
    /// Programs can run from the mount (`exec`, `noexec`).
    pub exec: bool,
    /// Set-id bits take effect (`suid`, `nosuid`); root only.
    pub suid: bool,
    /// Device nodes work (`dev`, `nodev`); root only.
    pub dev: bool,
    /// Reads update access times (`relatime`, `noatime`).
    pub access_times: bool,
    /// Listings do, too (`diratime`, `nodiratime`).
    pub folder_access_times: bool,
    /// Error for growth past the quota (`quota-errno=`).
    pub full: Full,
    /// How long a call may wait for the network; set by `--read-timeout`, not by `-o`.
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: false,
            default_permissions: false,
            uid: None,
            gid: None,
            umask: None,
            fsname: "pxfs".to_owned(),
            exec: true,
            suid: false,
            dev: false,
            access_times: true,
            folder_access_times: true,
            full: Full::default(),
            read_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// Applies one `-o` argument: words separated by commas, the last one wins.
    ///
    /// # Errors
    /// [`MountError::Option`] names the first word that is unknown or malformed.
    pub fn apply(&mut self, list: &str) -> Result<(), MountError> {
        list.split(',')
            .filter(|word| !word.is_empty())
            .try_for_each(|word| self.apply_word(word))
    }

    fn apply_word(&mut self, word: &str) -> Result<(), MountError> {
        match word.split_once('=') {
            Some(("uid", id)) => self.uid = Some(number(word, id)?),
            Some(("gid", id)) => self.gid = Some(number(word, id)?),
            Some(("umask", bits)) => self.umask = Some(permission_bits(word, bits)?),
            Some(("quota-errno", "EDQUOT")) => self.full = Full::Quota,
            Some(("quota-errno", "ENOSPC")) => self.full = Full::Space,
            Some(("quota-errno", _)) => return Err(refuse(word, "give EDQUOT or ENOSPC")),
            Some(("fsname", name)) => self.fsname = source_name(word, name)?,
            Some((key, _)) if key.starts_with("x-") || key == "comment" => {}
            Some(_) => return Err(unknown(word)),
            None => self.apply_flag(word)?,
        }
        Ok(())
    }

    fn apply_flag(&mut self, word: &str) -> Result<(), MountError> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.allow_other = true,
            "default_permissions" => self.default_permissions = true,
            "exec" => self.exec = true,
            "noexec" => self.exec = false,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "atime" | "relatime" => self.access_times = true,
            "noatime" => self.access_times = false,
            "diratime" => self.folder_access_times = true,
            "nodiratime" => self.folder_access_times = false,
            // For mount(8), fstab and systemd.
            "defaults" | "_netdev" | "nofail" | "auto" | "noauto" | "user" | "users" | "nouser"
            | "owner" | "group" | "async" => {}
            word if word.starts_with("x-") => {}
            _ => return Err(unknown(word)),
        }
        Ok(())
    }
}

fn unknown(word: &str) -> MountError {
    refuse(
        word,
        "unknown; known are ro, rw, allow_other, default_permissions, uid=, gid=, umask=, fsname=, quota-errno=, [no]exec, [no]suid, [no]dev, relatime, noatime, [no]diratime",
    )
}

fn refuse(word: &str, reason: &str) -> MountError {
    MountError::Option {
        word: word.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The greatest number means "none" to the kernel.
fn number(word: &str, text: &str) -> Result<u32, MountError> {
    match text.parse() {
        Ok(id) if id != u32::MAX && !text.starts_with('+') => Ok(id),
        _ => Err(refuse(word, "give a numeric id")),
    }
}

fn permission_bits(word: &str, text: &str) -> Result<u16, MountError> {
    match u16::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 && !text.starts_with('+') => Ok(bits),
        _ => Err(refuse(word, "give octal permission bits, such as 022")),
    }
}

/// fusermount3 would need commas and backslashes quoted.
fn source_name(word: &str, name: &str) -> Result<String, MountError> {
    let plain = |c: char| !c.is_control() && c != '\\';
    if !name.is_empty() && name.chars().all(plain) {
        Ok(name.to_owned())
    } else {
        Err(refuse(word, "give a name of printable characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Result<Options, MountError> {
        let mut options = Options::default();
        options.apply(list).map(|()| options)
    }

    #[test]
    fn a_mount_without_options_is_private_writable_and_safe() {
        let options = Options::default();
        assert!(!options.read_only && !options.allow_other && !options.suid && !options.dev);
        assert_eq!(options.fsname, "pxfs");
    }

    #[test]
    fn each_documented_word_has_its_effect() {
        let options = parsed("ro,allow_other,uid=1000,gid=100,umask=027,fsname=my drive").unwrap();
        assert!(options.read_only && options.allow_other);
        assert_eq!((options.uid, options.gid), (Some(1000), Some(100)));
        assert_eq!(options.umask, Some(0o027));
        assert_eq!(options.fsname, "my drive");
        let options = parsed("noexec,suid,dev,noatime,nodiratime").unwrap();
        assert!(!options.exec && options.suid && options.dev);
        assert!(!options.access_times && !options.folder_access_times);
        assert_eq!(options.full, Full::Quota);
        assert_eq!(parsed("quota-errno=ENOSPC").unwrap().full, Full::Space);
    }

    #[test]
    fn an_fstab_line_of_a_network_drive_mounts() {
        let line = "rw,defaults,_netdev,nofail,noauto,user,users,exec,nosuid,nodev,\
                    x-systemd.automount,x-systemd.idle-timeout=60,comment=drive";
        assert_eq!(parsed(line).unwrap(), Options::default());
    }

    #[test]
    fn the_later_word_wins() {
        assert!(!parsed("ro,rw").unwrap().read_only);
        assert!(!parsed("suid,nosuid").unwrap().suid);
    }

    #[test]
    fn a_misspelt_word_is_refused_in_one_line_that_names_it() {
        for word in ["allow_others", "RO", "uid", "size=5", "=", "fsnam=x"] {
            let error = parsed(&format!("ro,{word}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{word}`")), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn values_without_sense_are_refused() {
        for word in [
            "uid=root",
            "uid=-1",
            "uid=+1",
            "uid=4294967295",
            "gid=",
            "quota-errno=EIO",
            "umask=888",
            "umask=1000",
            "fsname=",
            "fsname=a\\b",
        ] {
            assert!(parsed(word).is_err(), "{word}");
        }
    }
}
