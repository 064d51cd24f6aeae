//! A node's folder: keys, network, settings, and where each store lives.
//!
//! Invariant: secrets lie encrypted in the vault; every file is written whole or not at all; one process uses a
//! folder at a time (the journal's lock).

use std::collections::BTreeMap;
use std::env::VarError;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use tributary_protocol::id::{ChainAddress, Hash};
use tributary_settlement::chain::{ChainKey, Deployment};
use tributary_storage::vault::{Passphrase, SecretKind, Vault, VaultError};

/// Where the chain is and which contracts are in use; part of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainNotice {
    /// The JSON-RPC address.
    pub url: String,
    /// The contracts.
    pub deployment: Deployment,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A file of ours that does not parse.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A key cannot be kept or read.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The system gives no randomness.
    #[error("the system gives no random bytes: {0}")]
    Randomness(getrandom::Error),
    /// The keys are sealed with a passphrase that was not given.
    #[error("the keys in {} open with a passphrase, and none is given", folder.display())]
    PassphraseMissing {
        /// Where the keys are.
        folder: PathBuf,
    },
    /// The passphrase in the environment is no text.
    #[error("the passphrase in TRIBUTARY_PASSPHRASE is no UTF-8 text")]
    PassphraseNotText,
    /// A chain key that is no key.
    #[error("the chain key is not usable: {0}")]
    ChainKey(String),
}

impl HomeError {
    /// Whether the keys are there and do not open with what was given.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        matches!(
            self,
            Self::PassphraseMissing { .. } | Self::PassphraseNotText | Self::Vault(VaultError::WrongPassphrase { .. })
        )
    }
}

/// A node's folder.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

/// The keys of a node, unlocked.
pub struct Keys {
    /// libp2p, iroh and envelopes.
    pub node_seed: [u8; 32],
    /// Statements and receipts.
    pub account: SigningKey,
    /// Money.
    pub chain: [u8; 32],
}

/// What makes a network: its name and where its treasury is paid. Part of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkNotice {
    /// Its name, of `a-z 0-9 -`.
    pub name: String,
    /// Where the treasury is paid.
    pub treasury: ChainAddress,
    /// Its settlement chain, if it has one.
    pub chain: Option<ChainNotice>,
}

/// How to reach a running node: written when it is ready, removed when it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiNotice {
    /// Where the HTTP API listens.
    pub address: SocketAddr,
    /// The bearer token.
    pub token: String,
    /// The node's process.
    pub pid: u32,
    /// The node's id.
    pub node: String,
}

/// An invitation: everything a second machine needs to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The network.
    pub network: NetworkNotice,
    /// Multiaddresses of peers to begin with.
    pub bootstrap: Vec<String>,
}

/// What begins every ticket.
const TICKET_PREFIX: &str = "tributary1";

impl Ticket {
    /// The text that is passed on.
    #[must_use]
    pub fn to_text(&self) -> String {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let check = blake3::hash(&body);
        format!("{TICKET_PREFIX}{}{}", hex::encode(&check.as_bytes()[..4]), hex::encode(body))
    }

    /// Reads a text that was passed on.
    ///
    /// # Errors
    /// Says whether it is no ticket or was damaged on the way.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let hex = text.trim().strip_prefix(TICKET_PREFIX).ok_or("a ticket begins with tributary1")?;
        let bytes = hex::decode(hex).map_err(|_| "a letter of the ticket is wrong or missing")?;
        let (check, body) = bytes.split_at_checked(4).ok_or("the ticket is cut short")?;
        if check != &blake3::hash(body).as_bytes()[..4] {
            return Err("the ticket was changed or cut on the way; copy it again as a whole".into());
        }
        serde_json::from_slice(body).map_err(|error| format!("the ticket is from another version: {error}"))
    }
}

impl Home {
    /// The folder at `root` as it is, if it is there at all: to look before anything is written.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder at `root`, made if need be and closed to others.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> Result<Self, HomeError> {
        let failed = |source| HomeError::Io { path: root.to_owned(), source };
        std::fs::create_dir_all(root).map_err(failed)?;
        #[cfg(unix)]
        {
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(root, private).map_err(failed)?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// A path within the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether any key was made here.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let vault = self.vault();
        SecretKind::ALL.into_iter().any(|kind| vault.contains(kind))
    }

    fn vault(&self) -> Vault {
        Vault::at(&self.path("keys"))
    }

    /// Unlocks the keys, made on first use. The passphrase is `TRIBUTARY_PASSPHRASE`, else a random key file beside
    /// the vault that only this user can read.
    ///
    /// # Errors
    /// When a key is damaged or the passphrase is wrong; then nothing was written.
    pub fn keys(&self) -> Result<Keys, HomeError> {
        let vault = self.vault();
        let passphrase = self.passphrase()?;
        // Those that are there prove the passphrase before a missing one is sealed with it.
        let (there, missing): (Vec<_>, Vec<_>) = SecretKind::ALL.into_iter().partition(|kind| vault.contains(*kind));
        let mut secrets = BTreeMap::new();
        for kind in there.into_iter().chain(missing) {
            secrets.insert(kind, vault.load_or_create(kind, &passphrase)?);
        }
        let secret = |kind| secrets.get(&kind).map(|secret| *secret.expose()).unwrap_or_default();
        Ok(Keys {
            node_seed: secret(SecretKind::NodeSeed),
            account: SigningKey::from_bytes(&secret(SecretKind::AccountSeed)),
            chain: secret(SecretKind::ChainKey),
        })
    }

    fn passphrase(&self) -> Result<Passphrase, HomeError> {
        match std::env::var("TRIBUTARY_PASSPHRASE") {
            Ok(text) => return Ok(Passphrase::text(&text)),
            Err(VarError::NotUnicode(_)) => return Err(HomeError::PassphraseNotText),
            Err(VarError::NotPresent) => {}
        }
        let path = self.path("unlock.key");
        if !path.exists() {
            if self.has_keys() {
                return Err(HomeError::PassphraseMissing { folder: self.path("keys") });
            }
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(HomeError::Randomness)?;
            self.write_private("unlock.key", hex::encode(bytes).as_bytes())?;
        }
        Ok(Passphrase::from_key_file(&path)?)
    }

    /// Writes a file whole or not at all, readable by this user only.
    ///
    /// # Errors
    /// When the disk is full or refuses.
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), HomeError> {
        let path = self.path(name);
        let beside = self.path(&format!("{name}.new"));
        let failed = |source| HomeError::Io { path: path.clone(), source };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&beside).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&beside, &path).map_err(failed)?;
        // The new name lies in the folder, which has to reach the disk as well.
        std::fs::File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// When the disk is full or refuses.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), HomeError> {
        let damaged =
            |error: serde_json::Error| HomeError::Damaged { path: self.path(name), detail: error.to_string() };
        self.write_private(name, &serde_json::to_vec_pretty(value).map_err(damaged)?)
    }

    /// Reads a value; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read or does not parse.
    pub fn load<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, HomeError> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| HomeError::Damaged { path, detail: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// The network this folder belongs to; a new one named `name`, with this node's own treasury, when none was
    /// joined yet.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn network(&self, name: &str, chain_key: &[u8; 32]) -> Result<NetworkNotice, HomeError> {
        if let Some(known) = self.load("network.json")? {
            return Ok(known);
        }
        let notice = NetworkNotice { name: name.to_owned(), treasury: treasury_address(chain_key)?, chain: None };
        self.save("network.json", &notice)?;
        Ok(notice)
    }
}

/// The key of the treasury of a network that the owner of `chain_key` began.
#[must_use]
pub fn treasury_key(chain_key: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("tributary treasury key v1", chain_key)
}

fn treasury_address(chain_key: &[u8; 32]) -> Result<ChainAddress, HomeError> {
    chain_address(&treasury_key(chain_key))
}

/// The address of a chain key.
///
/// # Errors
/// When the bytes are no key.
pub fn chain_address(key: &[u8; 32]) -> Result<ChainAddress, HomeError> {
    ChainKey::from_bytes(*key).map(|key| key.address()).map_err(|error| HomeError::ChainKey(error.to_string()))
}

/// The secret seed of a node's nonces.
#[must_use]
pub fn entropy(node_seed: &[u8; 32]) -> Hash {
    Hash(blake3::derive_key("tributary node entropy v1", node_seed))
}
