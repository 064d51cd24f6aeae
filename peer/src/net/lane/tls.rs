//! TLS for the fast lane: both sides show their node key itself (raw public keys, RFC 7250) instead of a certificate.
//!
//! Invariant: a client accepts exactly the key it dialled, a server learns the client's key, and the TLS 1.3 handshake
//! proves that the other side holds the secret to it. No certificate, name or date is believed.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, alg_id};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, public_key_to_spki};
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use tributary_protocol::id::NodeId;

use super::ALPN;
use crate::net::{NetError, identity};

/// PKCS#8 (RFC 8410, section 7) in front of an ed25519 seed.
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// Bytes of an ed25519 key, which end its SubjectPublicKeyInfo.
const KEY_BYTES: usize = 32;

/// This node's key as rustls wants it.
pub(super) struct Identity {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    pub(super) fn new(seed: &[u8; 32]) -> Result<Self, NetError> {
        let pkcs8 = [PKCS8_PREFIX.as_slice(), seed].concat();
        let signing = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).map_err(NetError::setup)?;
        let shown = CertificateDer::from(spki(identity::node_id(seed)).to_vec());
        let key = Arc::new(CertifiedKey::new(vec![shown], signing));
        Ok(Self { key, provider: Arc::new(ring::default_provider()) })
    }

    /// Serves anybody who proves a key.
    pub(super) fn server_config(&self) -> Result<quinn::ServerConfig, NetError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(NetError::setup)?
            .with_client_cert_verifier(Arc::new(AnyNode(Arc::clone(&self.provider))))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        let config = QuicServerConfig::try_from(config).map_err(NetError::setup)?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(config)))
    }

    /// Talks to `node` and nobody else.
    pub(super) fn client_config(&self, node: NodeId) -> Result<quinn::ClientConfig, NetError> {
        let verifier = ThisNode { shown: spki(node), provider: Arc::clone(&self.provider) };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(NetError::setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let config = QuicClientConfig::try_from(config).map_err(NetError::setup)?;
        Ok(quinn::ClientConfig::new(Arc::new(config)))
    }
}

/// The key of the other side of a connection.
pub(super) fn node_of(connection: &quinn::Connection) -> Option<NodeId> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match shown.as_slice() {
        [shown] => parse_spki(shown),
        _ => None,
    }
}

fn spki(node: NodeId) -> SubjectPublicKeyInfoDer<'static> {
    public_key_to_spki(&alg_id::ED25519, node.as_bytes())
}

fn parse_spki(shown: &[u8]) -> Option<NodeId> {
    let node = NodeId(*shown.last_chunk::<KEY_BYTES>()?);
    (spki(node).as_ref() == shown).then_some(node)
}

fn check_signature(
    provider: &CryptoProvider,
    message: &[u8],
    shown: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
    verify_tls13_signature_with_raw_key(message, &key, signature, &provider.signature_verification_algorithms)
}

const WRONG_KEY: rustls::Error = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
const TLS12: rustls::Error = rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

/// Accepts one key.
#[derive(Debug)]
struct ThisNode {
    shown: SubjectPublicKeyInfoDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ThisNode {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match others.is_empty() && shown.as_ref() == self.shown.as_ref() {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(WRONG_KEY),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.provider, message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts every ed25519 key.
#[derive(Debug)]
struct AnyNode(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match others.is_empty() && parse_spki(shown).is_some() {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(WRONG_KEY),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(&self.0, message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tributary_protocol::id::NodeId;

    use super::{Identity, parse_spki, spki};

    #[test]
    fn a_shown_key_names_its_node_and_only_that_form() {
        let node = NodeId([3; 32]);
        let shown = spki(node).to_vec();
        assert_eq!(parse_spki(&shown), Some(node));
        assert_eq!(parse_spki(&shown[1..]), None);
        assert_eq!(parse_spki(node.as_bytes()), None);
        let mut other = shown;
        other[8] ^= 1;
        assert_eq!(parse_spki(&other), None);
    }

    #[test]
    fn any_seed_makes_both_configurations() {
        let identity = Identity::new(&[0xff; 32]).unwrap();
        identity.server_config().unwrap();
        identity.client_config(NodeId([3; 32])).unwrap();
    }
}
