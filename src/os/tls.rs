//! Certificates and keys from PEM files, TLS as a server and as a client, and in plain words what is wrong with a
//! peer's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};

/// A server's TLS configuration from PEM files: the certificate chain, leaf first, and its private key.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let in_cert = |what: String| format!("callback.tls.cert {}: {what}", cert.display());
    let in_key = |what: String| format!("callback.tls.key {}: {what}", key.display());
    let chain = chain_in(cert).map_err(in_cert)?;
    let private = private_key_in(key).map_err(in_key)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| in_cert(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => in_key(OTHER_KEY.to_owned()),
            other => in_cert(other.to_string()),
        })?;
    Ok(Arc::new(config))
}

/// What is said of a private key that is another certificate's.
const OTHER_KEY: &str = "it does not belong to the certificate";

/// Files of TLS as a client (PEM).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Trusted roots instead of the system's.
    pub ca: Option<PathBuf>,
    /// Client certificate; never without its key.
    pub cert: Option<PathBuf>,
    /// Client key; never without its certificate.
    pub key: Option<PathBuf>,
}

/// What is wrong with [`ClientFiles`]. Whoever uses them names the configuration's section.
#[derive(Debug)]
pub enum FilesError {
    /// A file cannot be used.
    File {
        /// `ca`, `cert` or `key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The certificate is there without the key, or the key without the certificate.
    Half,
    /// The machine has no root certificates, and no others are named.
    NoRoots(String),
    /// The TLS library refuses the combination.
    Tls(rustls::Error),
}

impl ClientFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn config(&self) -> Result<Arc<ClientConfig>, FilesError> {
        let wrong = |key, path: &Path, cause| FilesError::File { key, path: path.to_owned(), cause };
        let roots = match &self.ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                add_roots(&mut roots, ca).map_err(|cause| wrong("ca", ca, cause))?;
                roots
            }
            None => match found_roots() {
                (roots, why) if roots.is_empty() => return Err(FilesError::NoRoots(why)),
                (roots, _) => roots,
            },
        };
        let builder = trusting(roots).map_err(FilesError::Tls)?;
        let config = match (&self.cert, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let chain = chain_in(cert).map_err(|cause| wrong("cert", cert, cause))?;
                let private = private_key_in(key).map_err(|cause| wrong("key", key, cause))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => wrong("key", key, OTHER_KEY.to_owned()),
                    other => wrong("cert", cert, other.to_string()),
                })?
            }
            _ => return Err(FilesError::Half),
        };
        Ok(Arc::new(config))
    }
}

/// The roots that the system trusts. Those that cannot be read are no reason to do without the others.
#[must_use]
pub fn system_roots() -> RootCertStore {
    found_roots().0
}

/// The same, and why some could not be read.
fn found_roots() -> (RootCertStore, String) {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    (roots, causes.join("; "))
}

/// Adds the certificates of a PEM file. All must be usable: somebody named this file.
///
/// # Errors
/// What is wrong with it.
pub fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    chain_in(path)?.into_iter().try_for_each(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
}

/// A client's TLS, which trusts these roots.
///
/// # Errors
/// None, as long as rustls has a version of TLS that the provider knows.
pub fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    Ok(Arc::new(trusting(roots)?.with_no_client_auth()))
}

/// A client's TLS that takes any certificate: to look at one, or where nobody vouches for the peer.
///
/// # Errors
/// As [`client_config`].
pub fn trusting_anybody() -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let anybody = Arc::new(Anybody(provider()));
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

/// Ring, because it builds without cmake on the ARM boards this runs on.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a PEM file, at least one; else why there is none.
fn chain_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    const NONE: &str = "no certificate in PEM form in it";
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain.map_err(|error| unusable(&error, NONE)) {
        Ok(chain) if chain.is_empty() => Err(NONE.to_owned()),
        chain => chain,
    }
}

/// The private key of a PEM file, else why there is none.
fn private_key_in(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable(&error, "no private key in PEM form in it"))
}

fn unusable(error: &pem::Error, none: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => none.to_owned(),
        other => format!("{other:?}"),
    }
}

/// What is wrong with a peer's certificate, for the cases that are no matter of trust, name or time: rustls has only the
/// names of its own types for them.
#[must_use]
pub fn words(error: &CertificateError) -> String {
    let name = format!("{error:?}");
    if name.contains("CaUsedAsEndEntity") {
        return "it is a certificate authority's and used as a server's: have the authority issue one for the server, with \
                basicConstraints CA:FALSE"
            .to_owned();
    }
    match error {
        CertificateError::Revoked => "it was revoked: it must be replaced".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it was not issued for this purpose: a server's needs the extended key usage serverAuth, a client's clientAuth"
                .to_owned()
        }
        _ => spelled(&name),
    }
}

/// The name of a type's variant in lower-case words: of `Other(OtherError(UnsupportedCertVersion))`, "unsupported cert
/// version". What a variant holds is left out: it may be the peer's words.
#[must_use]
pub fn spelled(name: &str) -> String {
    let outer = name.split(" {").next().unwrap_or(name);
    let inner = outer.rsplit('(').next().unwrap_or(outer);
    let ident: String = inner.chars().take_while(char::is_ascii_alphanumeric).collect();
    let mut words = String::new();
    for character in ident.chars() {
        if character.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(character.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key, the key of another, a file without either, and a damaged certificate.
    struct Files {
        _dir: tempfile::TempDir,
        cert: PathBuf,
        key: PathBuf,
        another: PathBuf,
        junk: PathBuf,
        damaged: PathBuf,
    }

    impl Files {
        fn new() -> Self {
            let identity = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
            let (one, other) = (identity(), identity());
            let dir = tempfile::tempdir().unwrap();
            let file = |name: &str, text: &str| {
                let path = dir.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            let damaged = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
            Self {
                cert: file("cert", &one.cert.pem()),
                key: file("key", &one.signing_key.serialize_pem()),
                another: file("another", &other.signing_key.serialize_pem()),
                junk: file("junk", "junk"),
                damaged: file("damaged", &format!("{}{damaged}", one.cert.pem())),
                _dir: dir,
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_clients_files_is_told_with_key_and_file() {
        let Files { _dir, cert, key, another, junk, damaged } = Files::new();
        let nowhere = PathBuf::from("/nowhere/ca.pem");
        let files = |ca: &PathBuf, own: Option<(&PathBuf, &PathBuf)>| {
            let (cert, key) = own.map(|(cert, key)| (cert.clone(), key.clone())).unzip();
            ClientFiles { ca: Some(ca.clone()), cert, key }
        };
        files(&cert, None).config().unwrap();
        files(&cert, Some((&cert, &key))).config().unwrap();
        for (wrong, file, says, files) in [
            ("ca", &nowhere, "No such file", files(&nowhere, None)),
            ("ca", &junk, "no certificate in PEM form in it", files(&junk, None)),
            ("ca", &damaged, "invalid peer certificate", files(&damaged, None)),
            ("cert", &junk, "no certificate in PEM form in it", files(&cert, Some((&junk, &key)))),
            ("key", &cert, "no private key in PEM form in it", files(&cert, Some((&cert, &cert)))),
            ("key", &another, "it does not belong", files(&cert, Some((&cert, &another)))),
        ] {
            let error = files.config().unwrap_err();
            let FilesError::File { key, path, cause } = &error else { panic!("{error:?}") };
            assert!((*key, path) == (wrong, file) && cause.starts_with(says), "{error:?}");
        }
        for half in [(Some(cert.clone()), None), (None, Some(key))] {
            let files = ClientFiles { ca: Some(cert.clone()), cert: half.0, key: half.1 };
            assert!(matches!(files.config(), Err(FilesError::Half)));
        }
    }

    #[test]
    fn the_file_that_is_wrong_is_named() {
        let Files { _dir, cert, key, another, junk, .. } = Files::new();
        server_config(&cert, &key).unwrap();
        for (cert, key, says) in [
            (&junk, &key, ["callback.tls.cert", "junk: no certificate"]),
            (&cert, &junk, ["callback.tls.key", "junk: no private key"]),
            (&key, &key, ["callback.tls.cert", "key: no certificate"]),
            (&cert, &another, ["callback.tls.key", "another: it does not belong"]),
        ] {
            let error = server_config(cert, key).unwrap_err();
            assert!(says.iter().all(|what| error.contains(what)), "{says:?}: {error}");
        }
    }

    #[test]
    fn names_of_types_are_spelled_as_words() {
        for (name, words) in [
            ("BadEncoding", "bad encoding"),
            ("Other(OtherError(UnsupportedCertVersion))", "unsupported cert version"),
            ("ExpiredRevocationListContext { time: UnixTime(5) }", "expired revocation list context"),
        ] {
            assert_eq!(spelled(name), words, "{name}");
        }
    }
}
