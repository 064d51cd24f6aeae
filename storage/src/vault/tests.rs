use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Passphrase, SECP256K1_ORDER, Secret, SecretKind, Vault, VaultError};

#[test]
fn each_kind_of_key_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(&folder.path().join("keys"));
    let passphrase = Passphrase::text("correct horse");
    for kind in SecretKind::ALL {
        assert!(matches!(vault.load(kind, &passphrase), Err(VaultError::Missing { .. })));
        let secret = vault.load_or_create(kind, &passphrase).unwrap();
        assert_eq!(vault.load_or_create(kind, &passphrase).unwrap(), secret);
        assert_eq!(vault.load(kind, &passphrase).unwrap(), secret);
        assert_eq!(fs::metadata(vault.path(kind)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let names = fs::read_dir(folder.path().join("keys")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["account-seed.json", "chain-key.json", "node-seed.json"]);
    assert_eq!(fs::metadata(folder.path().join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_wrong_passphrase_says_so_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(folder.path());
    vault.store(SecretKind::NodeSeed, &Secret::new([3; 32]), &Passphrase::text("right")).unwrap();
    let error = vault.load(SecretKind::NodeSeed, &Passphrase::text("wrong")).unwrap_err();
    assert!(matches!(error, VaultError::WrongPassphrase { .. }));
    assert!(error.to_string().contains("node-seed.json"), "{error}");
    assert!(error.to_string().starts_with("wrong passphrase or key file"), "{error}");
}

#[test]
fn a_key_file_opens_what_it_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    fs::write(&right, [1, 2, 3]).unwrap();
    fs::write(&wrong, [1, 2, 4]).unwrap();
    let vault = Vault::at(folder.path());
    let secret = Secret::generate(SecretKind::ChainKey).unwrap();
    vault.store(SecretKind::ChainKey, &secret, &Passphrase::from_key_file(&right).unwrap()).unwrap();
    assert_eq!(vault.load(SecretKind::ChainKey, &Passphrase::from_key_file(&right).unwrap()).unwrap(), secret);
    let error = vault.load(SecretKind::ChainKey, &Passphrase::from_key_file(&wrong).unwrap()).unwrap_err();
    assert!(matches!(error, VaultError::WrongPassphrase { .. }));
    fs::write(&wrong, []).unwrap();
    for path in [&wrong, &folder.path().join("gone")] {
        let error = Passphrase::from_key_file(path).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_key_is_overwritten_only_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(folder.path());
    let (old, new) = (Passphrase::text("old"), Passphrase::text("new"));
    let secret = Secret::new([5; 32]);
    vault.store(SecretKind::AccountSeed, &secret, &old).unwrap();
    let error = vault.store(SecretKind::AccountSeed, &Secret::new([6; 32]), &new).unwrap_err();
    assert!(matches!(error, VaultError::Exists { .. }));
    assert_eq!(vault.load(SecretKind::AccountSeed, &old).unwrap(), secret);
    vault.replace(SecretKind::AccountSeed, &secret, &new).unwrap();
    assert_eq!(vault.load(SecretKind::AccountSeed, &new).unwrap(), secret);
    assert!(vault.load(SecretKind::AccountSeed, &old).is_err());
}

#[test]
fn any_changed_bit_of_the_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(folder.path());
    let passphrase = Passphrase::text("p");
    let secret = Secret::new([9; 32]);
    vault.store(SecretKind::NodeSeed, &secret, &passphrase).unwrap();
    let path = vault.path(SecretKind::NodeSeed);
    let whole = fs::read(&path).unwrap();
    for place in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).unwrap();
        match vault.load(SecretKind::NodeSeed, &passphrase) {
            // White space, and the case of a hexadecimal digit, say nothing.
            Ok(opened) => assert_eq!(opened, secret),
            Err(VaultError::WrongPassphrase { .. } | VaultError::Malformed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for cut in [0, 1, whole.len() / 2] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(vault.load(SecretKind::NodeSeed, &passphrase), Err(VaultError::Malformed { .. })));
    }
}

#[test]
fn a_key_of_another_kind_and_a_greedy_header_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(folder.path());
    let passphrase = Passphrase::text("p");
    vault.store(SecretKind::NodeSeed, &Secret::new([9; 32]), &passphrase).unwrap();
    fs::copy(vault.path(SecretKind::NodeSeed), vault.path(SecretKind::AccountSeed)).unwrap();
    let error = vault.load(SecretKind::AccountSeed, &passphrase).unwrap_err();
    assert!(error.to_string().contains("it holds a node-seed"), "{error}");
    let text = fs::read_to_string(vault.path(SecretKind::NodeSeed)).unwrap();
    let greedy = text.replace("\"memory_kib\": 19456", "\"memory_kib\": 4000000000");
    assert_ne!(greedy, text);
    fs::write(vault.path(SecretKind::NodeSeed), greedy).unwrap();
    let error = vault.load(SecretKind::NodeSeed, &passphrase).unwrap_err();
    assert!(error.to_string().contains("more work"), "{error}");
}

#[test]
fn bytes_that_are_no_chain_key_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::at(folder.path());
    for bytes in [[0; 32], SECP256K1_ORDER, [0xff; 32]] {
        let error = vault.store(SecretKind::ChainKey, &Secret::new(bytes), &Passphrase::text("")).unwrap_err();
        assert!(matches!(error, VaultError::InvalidSecret { .. }));
    }
    assert!(!vault.contains(SecretKind::ChainKey));
}

#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?} {:?}", Secret::new([0xab; 32]), Passphrase::text("hunter2"));
    assert_eq!(printed, "Secret(…) Passphrase(…)");
}
