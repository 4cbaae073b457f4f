//! API keys: hashed, named, never shown.

use gateway::config::{ApiKey, CliArgs, Config, ConfigError};

use crate::{resolve, with_variable};

#[test]
fn keys_are_hashed_and_never_shown() {
    const SECRETS: [&str; 3] = ["sk-first", "sk-second", "s=k,t"];
    let env = with_variable("EMBEDGATE_API_KEYS", "alice=sk-first, sk-second");
    let resolved = Config::resolve(&CliArgs::default(), &env).unwrap();
    let keys = &resolved.config.auth.keys;
    assert_eq!(keys[..], [ApiKey::new("alice", "sk-first"), ApiKey::new("key-2", "sk-second")]);
    assert_ne!(keys[0].sha256, keys[1].sha256);
    // SHA-256 of `sk-first`, by coreutils' sha256sum.
    let hex: String = keys[0].sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "2a19f16bb2586edf26ab5186503c69b4b6e37edcd08ab5c98c97f5320c5ed5c5");

    let file = "[auth]\napi_keys = [\"alice=sk-first\", \"sk-second\"]";
    let from_file = resolve(file).unwrap();
    assert_eq!(from_file.config.auth, resolved.config.auth);
    let wrong = [
        "[auth]\napi_keys = \"sk-first\"",
        "auth = \"sk-first\"",
        "[auth]\napi_keys = [\"sk-first\", 1]",
        "[auth]\napi_keys = [\"sk-first\", \"sk-second\"",
        "[auth]\napi_key = \"sk-first\"",
        "[auth]\napi_keys = [\"a=sk-first\", \"a=sk-second\"]",
    ];
    let mut shown = vec![
        format!("{env:?} {resolved:?} {from_file:?}"),
        resolved.report.to_string(),
        from_file.report.to_string(),
    ];
    shown.extend(wrong.map(|file| {
        let error = resolve(file).unwrap_err();
        format!("{error} {error:?}")
    }));
    for text in &shown {
        assert!(!SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
    assert!(shown[1].contains("# api_keys: 2 (alice, key-2)"), "{}", shown[1]);
}

#[test]
fn a_variable_holds_keys_between_commas_and_line_breaks() {
    for keys in [
        "alice=sk-first,sk-second",
        "alice=sk-first\nsk-second\n",
        "alice=sk-first,\nsk-second\n",
        "# of the team\r\n\r\n  alice = sk-first \r\n sk-second\r\n",
        "\u{feff}alice=sk-first\rsk-second",
    ] {
        let env = with_variable("EMBEDGATE_API_KEYS", keys);
        let config = Config::resolve(&CliArgs::default(), &env).unwrap().config;
        let expected = [ApiKey::new("alice", "sk-first"), ApiKey::new("key-2", "sk-second")];
        assert_eq!(config.auth.keys, expected, "{keys:?}");
    }
}

#[test]
fn an_empty_key_is_rejected() {
    // The last two are bare keys in base64: what stands before their padding must not become a name.
    for keys in [
        "",
        ",",
        "a=1,",
        "\n",
        "# none",
        "alice=\nsecret",
        "alice=",
        "=secret",
        " ",
        "c2VjcmV0MQ==",
        "c2VjcmV0MTI=",
    ] {
        let rejected = Config::resolve(&CliArgs::default(), &with_variable("EMBEDGATE_API_KEYS", keys));
        let Err(ConfigError::Invalid(problems)) = rejected else { panic!("{keys:?} was accepted") };
        assert_eq!(problems.len(), 1, "{keys:?}: {problems:?}");
        let message = &problems[0].message;
        assert!(message.starts_with("API key ") && message.contains(" is empty: "), "{keys:?}: {message}");
    }
}

#[test]
fn a_redis_password_is_never_shown() {
    const SECRETS: [&str; 5] = [
        "redis://:hunter2@host:6379/0",
        "redis://name:hunter2@host",
        "redis+unix:///run/redis.sock?pass=hunter2",
        "redis+unix:///run/redis.sock?db=1&pass=hunter2&user=name",
        "host:hunter2",
    ];
    for url in SECRETS {
        let file = format!("[cache]\nredis_url = \"{url}\"\n[limits]\nredis_url = \"{url}\"");
        let shown = match resolve(&file) {
            Ok(resolved) => format!("{resolved:?}\n{}", resolved.report),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
