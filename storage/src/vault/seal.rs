//! The sealed form of one secret: a JSON object of version, kind, key derivation, nonce and ciphertext.
//!
//! Invariant: everything in the header that decides how the seal opens is authenticated with it, and costs that a
//! hostile header asks for are refused before they are paid.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Secret, SecretKind, VaultError, random};

/// The version of the file format.
const VERSION: u32 = 1;

/// The Argon2id costs of new files: OWASP's first recommendation, about 30 ms on one core.
const MEMORY_KIB: u32 = 19 * 1024;
const ITERATIONS: u32 = 2;
const LANES: u32 = 1;

/// The highest costs that opening pays: 1 GiB for a few seconds.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_ITERATIONS: u32 = 32;
const MAX_LANES: u32 = 16;

/// Why a seal does not open.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed(String),
    WrongKey,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    version: u32,
    kind: SecretKind,
    kdf: Kdf,
    cipher: Cipher,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
    salt: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cipher {
    name: String,
    nonce: String,
    sealed: String,
}

const KDF_NAME: &str = "argon2id";
const CIPHER_NAME: &str = "xchacha20-poly1305";

pub(super) fn seal(kind: SecretKind, secret: &Secret, passphrase: &[u8]) -> Result<Vec<u8>, VaultError> {
    let (mut salt, mut nonce) = ([0; 16], [0; 24]);
    random(&mut salt)?;
    random(&mut nonce)?;
    let kdf = Kdf {
        name: KDF_NAME.to_owned(),
        memory_kib: MEMORY_KIB,
        iterations: ITERATIONS,
        lanes: LANES,
        salt: hex::encode(salt),
    };
    let key = derive(&kdf, &salt, passphrase).expect("invariant: our own costs are valid");
    let header = header(VERSION, kind, &kdf);
    let payload = Payload { msg: secret.expose().as_slice(), aad: header.as_bytes() };
    let sealed = XChaCha20Poly1305::new(key.as_slice().into()).encrypt(XNonce::from_slice(&nonce), payload);
    let sealed = hex::encode(sealed.expect("invariant: 32 bytes can be sealed"));
    let cipher = Cipher { name: CIPHER_NAME.to_owned(), nonce: hex::encode(nonce), sealed };
    let file = Sealed { version: VERSION, kind, kdf, cipher };
    let mut bytes = serde_json::to_vec_pretty(&file).expect("invariant: a plain struct is valid JSON");
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn open(kind: SecretKind, bytes: &[u8], passphrase: &[u8]) -> Result<Secret, Fault> {
    let malformed = |detail: String| Fault::Malformed(detail);
    let file: Sealed = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if file.version != VERSION {
        return Err(malformed(format!("version {}, this program knows {VERSION}", file.version)));
    }
    if file.kind != kind {
        return Err(malformed(format!("it holds a {}", file.kind)));
    }
    if file.kdf.name != KDF_NAME || file.cipher.name != CIPHER_NAME {
        return Err(malformed("an unknown derivation or cipher".to_owned()));
    }
    let salt: [u8; 16] = fixed(&file.kdf.salt, "salt")?;
    let nonce: [u8; 24] = fixed(&file.cipher.nonce, "nonce")?;
    let sealed: [u8; 48] = fixed(&file.cipher.sealed, "sealed")?;
    let key = derive(&file.kdf, &salt, passphrase)?;
    let header = header(file.version, kind, &file.kdf);
    let payload = Payload { msg: &sealed, aad: header.as_bytes() };
    let opened = XChaCha20Poly1305::new(key.as_slice().into()).decrypt(XNonce::from_slice(&nonce), payload);
    let opened = Zeroizing::new(opened.map_err(|_| Fault::WrongKey)?);
    let mut secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(&opened);
    Ok(Secret(secret))
}

fn fixed<const N: usize>(text: &str, field: &str) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Fault::Malformed(format!("{field} is not {N} bytes in hexadecimal"))),
    }
}

/// What the seal authenticates beside the secret.
fn header(version: u32, kind: SecretKind, kdf: &Kdf) -> String {
    let Kdf { name, memory_kib, iterations, lanes, salt } = kdf;
    format!("tributary vault|{version}|{kind}|{name}|{memory_kib}|{iterations}|{lanes}|{salt}|{CIPHER_NAME}")
}

fn derive(kdf: &Kdf, salt: &[u8], passphrase: &[u8]) -> Result<Zeroizing<[u8; 32]>, Fault> {
    if kdf.memory_kib > MAX_MEMORY_KIB || kdf.iterations > MAX_ITERATIONS || kdf.lanes > MAX_LANES {
        return Err(Fault::Malformed("it asks for more work than a key is worth".to_owned()));
    }
    let mut key = Zeroizing::new([0; 32]);
    let costs = |error: argon2::Error| Fault::Malformed(format!("derivation: {error}"));
    let params = Params::new(kdf.memory_kib, kdf.iterations, kdf.lanes, Some(key.len())).map_err(costs)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(passphrase, salt, key.as_mut_slice()).map_err(costs)?;
    Ok(key)
}
