//! The vault: a folder of secret keys, each sealed with XChaCha20-Poly1305 under a key that Argon2id makes from a
//! passphrase or a key file.
//!
//! Invariant: a secret is on the disk only sealed, in a file that its owner alone may read and that is replaced as a
//! whole or not at all; in memory it is wiped when dropped and never printed. An existing key is never overwritten
//! except by [`Vault::replace`].

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::disk::{self, DiskFull};

mod seal;

/// Bytes of a key file in the vault: the real ones have about 500.
const MAX_SEALED_BYTES: u64 = 16 * 1024;

/// Bytes of a key file that unlocks the vault.
const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

/// The order of secp256k1 (SEC 2, section 2.4.1): a chain key lies between 0 and it, both excluded.
const SECP256K1_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba, 0xae, 0xdc,
    0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// The ed25519 seed of a node: libp2p, iroh and envelopes.
    NodeSeed,
    /// The ed25519 seed of an account: money and receipts.
    AccountSeed,
    /// The secp256k1 key of an account on the settlement chain.
    ChainKey,
}

impl SecretKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::NodeSeed, Self::AccountSeed, Self::ChainKey];

    /// Its name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NodeSeed => "node-seed",
            Self::AccountSeed => "account-seed",
            Self::ChainKey => "chain-key",
        }
    }

    fn accepts(self, bytes: &[u8; 32]) -> bool {
        self != Self::ChainKey || (*bytes != [0; 32] && *bytes < SECP256K1_ORDER)
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// 32 secret bytes, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// The secret of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A fresh secret from the operating system.
    ///
    /// # Errors
    /// [`VaultError::NoRandomness`].
    pub fn generate(kind: SecretKind) -> Result<Self, VaultError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            random(bytes.as_mut_slice())?;
            // One draw in 2¹²⁸ is no secp256k1 key.
            if kind.accepts(&bytes) {
                return Ok(Self(bytes));
            }
        }
    }

    /// The bytes, for the one place that makes the key of them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What unlocks a vault; wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// A passphrase as typed. An empty one protects against nothing but a glance; the file's mode still does.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// The contents of a key file.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`] when it cannot be read, is empty or larger than 1 MiB.
    pub fn from_key_file(path: &Path) -> Result<Self, VaultError> {
        let fail = |source| VaultError::KeyFile { path: path.to_owned(), source };
        let mut bytes = Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(fail)?;
        file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.is_empty() || bytes.len() as u64 > MAX_KEY_FILE_BYTES {
            let text = format!("a key file has 1 to {MAX_KEY_FILE_BYTES} bytes");
            return Err(fail(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Why a secret could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No such key.
    #[error("there is no {kind} at {}", path.display())]
    Missing {
        /// What was asked for.
        kind: SecretKind,
        /// Where it would be.
        path: PathBuf,
    },
    /// A key is there already and stays.
    #[error("{} exists already and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The seal does not open. A changed file looks the same as a wrong passphrase.
    #[error("wrong passphrase or key file for {}, or the file was changed", path.display())]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no sealed key of this kind.
    #[error("{} is no {kind} of a vault: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        kind: SecretKind,
        /// What is wrong.
        detail: String,
    },
    /// Bytes that are no key of this kind.
    #[error("these 32 bytes are no valid {kind}")]
    InvalidSecret {
        /// The kind.
        kind: SecretKind,
    },
    /// A key file that cannot be used.
    #[error("key file {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    NoRandomness(String),
    /// No room on the disk; what was there is still there.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// The operating system refused.
    #[error("vault file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A folder of sealed keys, at most one of each kind.
#[derive(Debug, Clone)]
pub struct Vault {
    folder: PathBuf,
}

impl Vault {
    /// The vault in `folder`, which is made with the first key.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The file of a key; to back a key up, copy it.
    #[must_use]
    pub fn path(&self, kind: SecretKind) -> PathBuf {
        self.folder.join(format!("{kind}.json"))
    }

    /// Whether there is a key of this kind.
    #[must_use]
    pub fn contains(&self, kind: SecretKind) -> bool {
        self.path(kind).exists()
    }

    /// Keeps a new key. Takes a fraction of a second, as [`Vault::load`]: a guess must cost something.
    ///
    /// # Errors
    /// [`VaultError::Exists`] when there is one of this kind; [`VaultError::InvalidSecret`]; [`VaultError::DiskFull`]
    /// or [`VaultError::Io`].
    pub fn store(&self, kind: SecretKind, secret: &Secret, passphrase: &Passphrase) -> Result<(), VaultError> {
        if self.contains(kind) {
            return Err(VaultError::Exists { path: self.path(kind) });
        }
        self.write(kind, secret, passphrase, false)
    }

    /// Keeps a key in place of what was there: a rotation, or a new passphrase.
    ///
    /// # Errors
    /// As [`Vault::store`], but for [`VaultError::Exists`].
    pub fn replace(&self, kind: SecretKind, secret: &Secret, passphrase: &Passphrase) -> Result<(), VaultError> {
        self.write(kind, secret, passphrase, true)
    }

    /// The key of this kind.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::WrongPassphrase`], [`VaultError::Malformed`] or [`VaultError::Io`].
    pub fn load(&self, kind: SecretKind, passphrase: &Passphrase) -> Result<Secret, VaultError> {
        let path = self.path(kind);
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VaultError::Missing { kind, path }),
            Err(source) => return Err(VaultError::Io { path, source }),
        };
        let secret = seal::open(kind, &bytes, &passphrase.0).map_err(|fault| match fault {
            seal::Fault::Malformed(detail) => VaultError::Malformed { path: path.clone(), kind, detail },
            seal::Fault::WrongKey => VaultError::WrongPassphrase { path: path.clone() },
        })?;
        if !kind.accepts(secret.expose()) {
            return Err(VaultError::InvalidSecret { kind });
        }
        Ok(secret)
    }

    /// The key of this kind, made and kept when there is none: the first run of a node.
    ///
    /// # Errors
    /// As [`Vault::load`] and [`Vault::store`].
    pub fn load_or_create(&self, kind: SecretKind, passphrase: &Passphrase) -> Result<Secret, VaultError> {
        if self.contains(kind) {
            return self.load(kind, passphrase);
        }
        let secret = Secret::generate(kind)?;
        match self.store(kind, &secret, passphrase) {
            Ok(()) => Ok(secret),
            // Another process was faster; its key is the one.
            Err(VaultError::Exists { .. }) => self.load(kind, passphrase),
            Err(error) => Err(error),
        }
    }

    fn write(
        &self,
        kind: SecretKind,
        secret: &Secret,
        passphrase: &Passphrase,
        replace: bool,
    ) -> Result<(), VaultError> {
        if !kind.accepts(secret.expose()) {
            return Err(VaultError::InvalidSecret { kind });
        }
        let bytes = seal::seal(kind, secret, &passphrase.0)?;
        let path = self.path(kind);
        disk::check_room(&self.folder, bytes.len() as u64, 0)?;
        match write_whole(&self.folder, &path, &bytes, replace) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(VaultError::Exists { path }),
            Err(error) if disk::is_full(&error) => Err(DiskFull::at(&path, bytes.len() as u64, 0).into()),
            Err(source) => Err(VaultError::Io { path, source }),
        }
    }
}

fn random(bytes: &mut [u8]) -> Result<(), VaultError> {
    getrandom::fill(bytes).map_err(|error| VaultError::NoRandomness(error.to_string()))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SEALED_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file beside `path`, flushes it, and gives it its name; without `replace` only when the name is free.
fn write_whole(folder: &Path, path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|error| io::Error::other(error.to_string()))?;
    let draft = path.with_extension(format!("draft-{}", hex::encode(suffix)));
    let written = write_draft(&draft, bytes).and_then(|()| match replace {
        true => fs::rename(&draft, path),
        false => fs::hard_link(&draft, path),
    });
    // After a rename it is gone already; after a link or a fault this removes the second name or the half file.
    let _ = fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
