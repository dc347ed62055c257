//! The TLS client configuration of `mqtts://`: the trusted roots and the client certificate.
//!
//! The crypto provider is passed explicitly, so that nothing depends on the process's default provider.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::config::{StartError, TlsOptions};
use crate::os::tls::{OTHER_KEY, chain_in, private_key_in};

/// Reads the files of `options`. The link does this once, at its start.
///
/// # Errors
/// If a file cannot be used; the error names it and the cause.
pub fn client_config(options: &TlsOptions) -> Result<Arc<ClientConfig>, StartError> {
    let roots = match &options.ca {
        Some(ca) => roots_of(ca)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&options.cert, &options.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = chain_in(cert).map_err(|cause| unusable("mqtt.tls.cert", cert, cause))?;
            let private = private_key_in(key).map_err(|cause| unusable("mqtt.tls.key", key, cause))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => unusable("mqtt.tls.key", key, OTHER_KEY.to_owned()),
                other => unusable("mqtt.tls.cert", cert, other.to_string()),
            })?
        }
        _ => return Err(StartError::HalfIdentity),
    };
    Ok(Arc::new(config))
}

fn roots_of(ca: &Path) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    let unusable = |cause| unusable("mqtt.tls.ca", ca, cause);
    for certificate in chain_in(ca).map_err(unusable)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, StartError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unparsable) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(StartError::NoRoots(causes.join("; ")));
    }
    Ok(roots)
}

fn unusable(key: &'static str, path: &Path, cause: String) -> StartError {
    StartError::TlsFile { key, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_key_and_path() {
        let missing = TlsOptions { ca: Some("/nowhere/ca.pem".into()), ..TlsOptions::default() };
        let error = client_config(&missing).unwrap_err().to_string();
        assert!(error.starts_with("mqtt.tls.ca: /nowhere/ca.pem: No such file"), "{error}");

        let empty = file("hello");
        let options = TlsOptions { ca: Some(empty.path().into()), ..TlsOptions::default() };
        let error = client_config(&options).unwrap_err().to_string();
        assert!(error.ends_with("no certificate in PEM form in it"), "{error}");
    }

    #[test]
    fn a_client_identity_is_a_certificate_and_its_key() {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (cert, key) = (file(&cert.pem()), file(&key.serialize_pem()));
        let options = TlsOptions { ca: Some(cert.path().into()), cert: Some(cert.path().into()), key: None };
        assert!(matches!(client_config(&options), Err(StartError::HalfIdentity)));
        let options = TlsOptions { key: Some(cert.path().into()), ..options };
        let error = client_config(&options).unwrap_err().to_string();
        assert!(error.contains("mqtt.tls.key") && error.ends_with("no private key in PEM form in it"), "{error}");
        let options = TlsOptions { key: Some(key.path().into()), ..options };
        client_config(&options).unwrap();
    }
}
