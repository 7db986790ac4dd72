//! What the owner of a wallet would lose.

use std::os::unix::fs::PermissionsExt;

use super::*;

const KEY: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";

fn put(folder: &tempfile::TempDir, text: &str, mode: u32) -> std::path::PathBuf {
    let path = folder.path().join("wallet");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn hex_wallets_open_with_and_without_prefix() {
    let folder = tempfile::tempdir().unwrap();
    for text in [KEY.to_owned(), format!("0x{KEY}\n"), KEY.to_uppercase()] {
        let wallet = Wallet::open(&put(&folder, &text, 0o600), None).unwrap();
        assert_eq!(
            wallet.address().to_string().to_lowercase(),
            "0x008aeeda4d805471df9b2a5b0f38a0c3bcba786b"
        );
        assert!(!format!("{wallet:?}").contains("7a28"));
    }
}

#[test]
fn a_wallet_that_others_may_read_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o640, 0o604, 0o620, 0o644] {
        let path = put(&folder, KEY, mode);
        let fault = Wallet::open(&path, None).unwrap_err();
        assert_eq!(
            fault.to_string(),
            format!(
                "wallet {0} may be read by group or others: run `chmod 600 {0}`",
                path.display()
            )
        );
    }
}

#[test]
fn a_credential_given_by_acl_to_this_user_alone_is_accepted() {
    let entry = |tag: u16, perm: u16, id: u32| {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
        bytes
    };
    let acl = |user: u32, group: u16| {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        bytes.extend(entry(0x01, 4, u32::MAX));
        bytes.extend(entry(0x02, 4, user));
        bytes.extend(entry(0x04, group, u32::MAX));
        bytes.extend(entry(0x10, 4, u32::MAX));
        bytes.extend(entry(0x20, 0, u32::MAX));
        bytes
    };
    assert!(!acl_shared(&acl(977, 0), 977));
    assert!(acl_shared(&acl(978, 0), 977), "another user");
    assert!(acl_shared(&acl(977, 4), 977), "the group");
    assert!(acl_shared(&acl(977, 0)[..13], 977), "cut");
}

#[test]
fn files_that_are_no_wallets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a".repeat(70_000);
    for text in [
        "",
        "hello",
        &KEY[1..],
        &"0".repeat(64),
        &"f".repeat(64),
        &long,
        "{",
        "{}",
    ] {
        let fault = Wallet::open(&put(&folder, text, 0o600), Some("x")).unwrap_err();
        assert!(matches!(fault, ChainError::Wallet(_)), "{text}: {fault}");
        assert_eq!(fault.to_string().lines().count(), 1);
    }
    let missing = folder.path().join("none");
    assert!(matches!(
        Wallet::open(&missing, None),
        Err(ChainError::Wallet(_))
    ));
    assert!(matches!(
        Wallet::open(folder.path(), None),
        Err(ChainError::Wallet(_))
    ));
}

#[test]
fn a_new_wallet_is_private_and_never_takes_the_place_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let made = Wallet::create(&path, None).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Wallet::open(&path, None).unwrap().address(), made.address());
    assert!(matches!(
        Wallet::create(&path, None),
        Err(ChainError::Wallet(_))
    ));
    assert_eq!(Wallet::open(&path, None).unwrap().address(), made.address());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no drafts left"
    );
}

#[test]
fn a_keystore_made_here_opens_with_its_password_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keystore");
    let made = Wallet::create(&path, Some("correct horse")).unwrap();
    let opened = Wallet::open(&path, Some("correct horse")).unwrap();
    assert_eq!(opened.address(), made.address());
    for wrong in [None, Some("wrong")] {
        assert!(matches!(
            Wallet::open(&path, wrong),
            Err(ChainError::WrongPassword(_))
        ));
    }
}

/// The first accounts of anvil, hardhat and all others that follow BIP-39 and BIP-44.
#[test]
fn a_mnemonic_gives_the_accounts_that_every_other_wallet_shows() {
    const WORDS: &str = "test test test test test test test test test test test junk";
    let folder = tempfile::tempdir().unwrap();
    let path = put(&folder, &format!("  {WORDS}\n"), 0o600);
    let open = |password, derivation_path| {
        let opening = Opening {
            password,
            derivation_path,
        };
        Wallet::open_with(&path, opening)
    };
    let address = |password, derived| open(password, derived).unwrap().address().to_string();
    let first = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
    assert_eq!(address(None, None), first);
    let second = address(None, Some("m/44'/60'/0'/0/1"));
    assert_eq!(second, "0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
    assert_ne!(
        address(Some("TREZOR"), None),
        first,
        "its passphrase counts"
    );
    for derived in ["44'/60'", "m/44'/60'/x", "m/4294967296"] {
        let told = open(None, Some(derived)).unwrap_err().to_string();
        assert!(told.contains("--derivation-path"), "{told}");
    }
    let wrong = put(&folder, &WORDS.replace("junk", "test"), 0o600);
    let told = Wallet::open(&wrong, None).unwrap_err().to_string();
    assert!(
        told.contains("no mnemonic") && !told.contains("test test"),
        "{told}"
    );
    let key = put(&folder, KEY, 0o600);
    let opening = Opening {
        derivation_path: Some("m/44'/60'/0'/0/1"),
        ..Opening::default()
    };
    let told = Wallet::open_with(&key, opening).unwrap_err().to_string();
    assert!(told.contains("leave out --derivation-path"), "{told}");
}
