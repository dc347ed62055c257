//! The callback's own TLS, and words for what is wrong with the certificates of others.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ServerConfig};

/// A server's TLS configuration from PEM files: the certificate chain, leaf first, and its private key.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let in_cert = |error: &dyn std::error::Error| format!("callback.tls.cert {}: {error}", cert.display());
    let in_key = |error: &dyn std::error::Error| format!("callback.tls.key {}: {error}", key.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .map_err(|error| in_cert(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| in_cert(&error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| in_key(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| in_cert(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| in_key(&error))?;
    Ok(Arc::new(config))
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
