//! Certificates and keys from PEM files, TLS as a server and as a client, and in plain words what is wrong with a
//! peer's certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

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
pub const OTHER_KEY: &str = "it does not belong to the certificate";

/// The roots that the system trusts. Those that cannot be read are no reason to do without the others.
#[must_use]
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client's TLS, which trusts these roots.
///
/// # Errors
/// None, as long as rustls has a version of TLS that the provider knows.
pub fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// Ring, because it builds without cmake on the ARM boards this runs on.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// Why there is none.
pub fn chain_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    const NONE: &str = "no certificate in PEM form in it";
    let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match chain.map_err(|error| unusable(&error, NONE)) {
        Ok(chain) if chain.is_empty() => Err(NONE.to_owned()),
        chain => chain,
    }
}

/// The private key of a PEM file.
///
/// # Errors
/// Why there is none.
pub fn private_key_in(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
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

    #[test]
    fn the_file_that_is_wrong_is_named() {
        let identity = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let (one, other) = (identity(), identity());
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let cert = file("cert", &one.cert.pem());
        let (key, another) =
            (file("key", &one.signing_key.serialize_pem()), file("another", &other.signing_key.serialize_pem()));
        let junk = file("junk", "junk");
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
