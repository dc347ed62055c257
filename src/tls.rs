//! Certificates of the callback's own TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
