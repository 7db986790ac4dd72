use std::collections::HashMap;
use std::ffi::OsString;

use proptest::prelude::*;

use super::*;

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
    let map: HashMap<String, OsString> = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
        .collect();
    move |name| map.get(name).cloned()
}

fn file(text: &str) -> Result<Layer, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    Layer::from_file(&path)
}

fn home() -> Folders {
    Folders::from_env(env(&[("HOME", "/home/a")]), 1000)
}

fn tokens(ids: [u64; 2]) -> [TokenRef; 2] {
    ids.map(|id| crate::types::TokenId::from(id).into())
}

#[test]
fn several_contracts_of_several_chains_are_understood_everywhere() {
    let (a, b) = (
        "one=0x5fbdb2315678afecb367f032d93f642f64180aa3@100",
        "two=0xe7f1725e7734ce288f8367e1bb143e90bb3f0512@137",
    );
    let text = format!(
        "rpc-url = ['100=https://a', '137=https://b']\ncontract = ['{a}', '{b}']\ntoken = ['one-1']\n"
    );
    let layer = file(&text).unwrap();
    let chains: Vec<_> = layer.contract.iter().map(|one| one.chain).collect();
    assert_eq!(chains, [Some(100), Some(137)]);
    assert_eq!(layer.rpc_url[1].chain, Some(137));
    assert_eq!(layer.token[0].contract.as_deref(), Some("one"));
    let variable = format!("{a},{b}");
    let variables = Layer::from_env(env(&[("PXFS_CONTRACT", &variable)])).unwrap();
    assert_eq!(variables.contract, layer.contract);
    let error = file("\ncontract = ['0x1']\n").unwrap_err().to_string();
    assert!(
        error.contains("line 2") && error.contains("40 hex digits"),
        "{error}"
    );
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = file("commit-idle = '1s'\ncommit-max = '2s'\nread-timeout = '3s'\n").unwrap();
    let variables = Layer::from_env(env(&[
        ("PXFS_COMMIT_IDLE", "10s"),
        ("PXFS_COMMIT_MAX", "20s"),
    ]))
    .unwrap();
    let flags = Layer {
        commit_idle: Some("100s".parse().unwrap()),
        ..Layer::default()
    };
    let config = Config::resolve(flags.over(variables).over(file), &home());
    assert_eq!(config.commit_idle, Duration::from_secs(100));
    assert_eq!(config.commit_max, Duration::from_secs(20));
    assert_eq!(config.read_timeout, Duration::from_secs(3));
    assert_eq!(config.cache_bytes, 10 << 30);
}

#[test]
fn every_key_of_the_file_is_taken() {
    let name = crate::names::key::NameKey::from_seed(&[7; 32]).name();
    let layer = file(
        "rpc-url = 'https://a.example/key'\ncontract = '0x5fbdb2315678afecb367f032d93f642f64180aa3'\nchain-id = 5\nwallet = 'w'\n\
         wallet-password-file = 'p'\nnode = ['embedded=store', 'ipfs=http://h:5001']\ntoken = [1, '2']\nname = '2=NAME'\ntake-over = true\ngive-way = false\n\
         volume = 'plain'\nstate-dir = '/s'\ncache-dir = '/c'\ncache-size = '2GiB'\n\
         commit-idle = '1s'\ncommit-max = '2m'\nmax-fee = '0.25'\nread-timeout = '500ms'\nrefresh = '30s'\nauto-sync = '3d'\noptions = ['ro', 'umask=077']\n\
         log = 'debug'\nlog-format = 'json'\ncolor = 'never'\n"
            .replace("NAME", &name)
            .as_str(),
    )
    .unwrap();
    assert_eq!(layer.token, tokens([1, 2]));
    assert_eq!(layer.options, ["ro", "umask=077"]);
    assert!(layer.wallet.as_ref().unwrap().is_absolute());
    let config = Config::resolve(layer, &home());
    assert_eq!(
        config.rpc,
        [RpcUrl::Http("https://a.example/key".into()).into()]
    );
    assert_eq!(config.contracts.len(), 1);
    let named: Vec<_> = config.names.iter().map(|one| &one.name).collect();
    assert_eq!(named, [&name]);
    assert_eq!(config.cache_bytes, 2 << 30);
    assert_eq!(config.read_timeout, Duration::from_millis(500));
    assert_eq!(config.refresh, Duration::from_secs(30));
    assert_eq!(config.auto_sync, Some(Duration::from_secs(3 * 86_400)));
    let quarter = alloy::primitives::U256::from(250_000_000_000_000_000_u64);
    assert_eq!(config.max_fee, Some(quarter));
    assert_eq!(config.volume, VolumeKind::Plain);
    assert_eq!(config.state_dir, PathBuf::from("/s"));
}

/// One of them says whose tokens to mount: neither is ignored.
#[test]
fn an_address_and_a_wallet_replace_each_other_and_never_combine() {
    let address = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let watched = file(&format!("address = '{address}'\n")).unwrap();
    let owner = Config::resolve(watched.clone(), &home()).address;
    assert_eq!(owner, Some(address.parse().unwrap()));
    let wallet = file("wallet = 'w'\nwallet-password-file = 'p'\n").unwrap();
    let above = watched.clone().over(wallet.clone());
    assert_eq!((above.wallet, above.wallet_password_file), (None, None));
    let below = wallet.over(watched);
    assert!(below.wallet.is_some() && below.address.is_none());

    let torn = file(&format!("wallet = 'w'\naddress = '{address}'\n"))
        .unwrap_err()
        .to_string();
    assert!(
        torn.contains("line 2") && torn.contains("without its wallet"),
        "{torn}"
    );
    let both = [("PXFS_ADDRESS", address), ("PXFS_WALLET", "/w")];
    let torn = Layer::from_env(env(&both)).unwrap_err().to_string();
    assert!(torn.starts_with("PXFS_ADDRESS: "), "{torn}");
}

#[test]
fn an_address_with_a_slip_in_it_is_refused() {
    for good in [
        "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        "0x5fbdb2315678afecb367f032d93f642f64180aa3",
        "0x5FBDB2315678AFECB367F032D93F642F64180AA3",
    ] {
        assert!(good.parse::<Account>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "0x",
        "5FbDB2315678afecb367f032d93F642f64180aa3",
        "0x5FbDB2315678afecb367f032d93F642f64180aa",
        "0x5FbDB2315678afecb367f032d93F642f64180aa33",
        "0x5FbDB2315678afecb367f032d93F642f64180aG3",
        // One digit, or one letter's case, is another.
        "0x5FbDB2315678afecb367f032d93F642f64180aa4",
        "0x5fbDB2315678afecb367f032d93F642f64180aa3",
    ] {
        assert!(bad.parse::<Account>().is_err(), "{bad}");
    }
}

#[test]
fn a_key_that_is_not_known_is_named_with_its_line() {
    let error = file("log = 'info'\ncommit-idel = '5s'\n")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 2") && error.contains("commit-idel"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let error = file("\n\nnode = 'embeded=x'\n").unwrap_err().to_string();
    assert!(
        error.contains("line 3") && error.contains("embedded=FOLDER"),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_gives_one_line_or_what_is_there() {
    let whole = "rpc-url = ['embedded:/a', 'https://b']\nvolume = 'plain'\ntoken = [1, 2]\n";
    for cut in 0..whole.len() {
        if let Err(error) = file(&whole[..cut]) {
            assert_eq!(error.to_string().lines().count(), 1, "cut at {cut}");
        }
    }
    assert!(file(&whole[..whole.len() - 2]).is_err());
}

#[test]
fn a_missing_or_binary_file_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let error = Layer::from_file(&dir.path().join("no")).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable(..)));
    let path = dir.path().join("bin");
    std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    assert!(matches!(
        Layer::from_file(&path),
        Err(ConfigError::Unreadable(..))
    ));
}

#[test]
fn a_list_is_taken_whole_from_the_highest_layer_that_has_one() {
    let upper = Layer::from_env(env(&[("PXFS_TOKEN", "7,8")])).unwrap();
    let merged = upper.over(file("token = [1]\nnode = 'embedded=/n'\n").unwrap());
    assert_eq!(merged.token, tokens([7, 8]));
    assert_eq!(merged.node.len(), 1);
}

#[test]
fn a_bad_variable_is_named_and_its_value_is_not_shown() {
    let error = Layer::from_env(env(&[("PXFS_RPC_URL", "ftp://h/secret")])).unwrap_err();
    let line = error.to_string();
    assert!(
        line.starts_with("PXFS_RPC_URL: ") && !line.contains("secret"),
        "{line}"
    );
}

#[test]
fn a_url_is_shown_without_its_keys() {
    let url: RpcUrl = "https://user:pw@rpc.example:8545/v2/KEY?k=KEY"
        .parse()
        .unwrap();
    assert_eq!(url.to_string(), "https://rpc.example:8545");
    let url: RpcUrl = "wss://user:pw@rpc.example/KEY".parse().unwrap();
    assert_eq!(url.to_string(), "wss://rpc.example");
    let url: NodeUrl = "ipfs=http://n?KEY".parse().unwrap();
    assert_eq!(url.to_string(), "http://n");
}

#[test]
fn folders_follow_the_xdg_variables_and_those_of_a_service() {
    let folders = home();
    assert_eq!(folders.state, PathBuf::from("/home/a/.local/state/pxfs"));
    assert_eq!(
        folders.config_file(),
        PathBuf::from("/home/a/.config/pxfs/config.toml")
    );
    assert_eq!(
        folders.runtime[0],
        PathBuf::from("/home/a/.local/state/pxfs/run")
    );
    let folders = Folders::from_env(
        env(&[
            ("HOME", "/h"),
            ("XDG_STATE_HOME", "/x"),
            ("XDG_RUNTIME_DIR", "/r"),
        ]),
        0,
    );
    assert_eq!(folders.state, PathBuf::from("/x/pxfs"));
    assert_eq!(folders.runtime[0], PathBuf::from("/r/pxfs"));
    let folders = Folders::from_env(
        env(&[
            ("STATE_DIRECTORY", "/var/lib/pxfs:/b"),
            ("RUNTIME_DIRECTORY", "/run/pxfs"),
        ]),
        0,
    );
    assert_eq!(folders.state, PathBuf::from("/var/lib/pxfs"));
    assert_eq!(folders.runtime[0], PathBuf::from("/run/pxfs"));
}

#[test]
fn a_state_folder_of_ones_own_brings_its_cache_and_wallet_along() {
    let layer = Layer {
        state_dir: Some("/s".into()),
        ..Layer::default()
    };
    let config = Config::resolve(layer, &home());
    assert_eq!(config.cache_dir, PathBuf::from("/s/cache"));
    assert_eq!(config.wallet, PathBuf::from("/s/wallet"));
}

#[test]
fn spans_and_sizes_are_read_as_people_write_them() {
    let span = |text: &str| text.parse::<Span>().map(|span| span.0.as_millis());
    assert_eq!(span("31d"), Ok(31 * 86_400_000));
    assert_eq!(span("1h30m"), Ok(5_400_000));
    for bad in [
        "",
        "5",
        "s",
        "-1s",
        "1.5h",
        "5 s",
        "99999999999999999999d",
        "9999999999999999d9s",
    ] {
        assert!(span(bad).is_err(), "{bad}");
    }
    assert_eq!("10GiB".parse::<Size>().unwrap().0, 10 << 30);
    assert!("ten".parse::<Size>().is_err());
}

proptest! {
    #[test]
    fn no_text_in_a_file_makes_the_program_fall_over(text in "\\PC{0,200}") {
        if let Err(error) = file(&text) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

#[test]
fn an_amount_of_coins_that_is_none_is_refused() {
    for text in ["", "-1", "0x10", "1e3", "1 eth", "."] {
        assert!(text.parse::<super::Coins>().is_err(), "{text}");
    }
}
