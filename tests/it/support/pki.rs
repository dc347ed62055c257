//! A certificate authority of a test's own.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

/// The names of a server on this machine.
pub(crate) const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The authority, and the files of what it issued.
pub(crate) struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    /// Its own certificate is `ca.pem`.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        Self { ca, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, for a line of configuration.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes `<name>.pem` and `<name>.key`, valid for these names; for any usage if none is given.
    pub(crate) fn issue(&self, name: &str, names: &[&str], usages: &[ExtendedKeyUsagePurpose]) {
        let mut params = params(name, names);
        params.extended_key_usages = usages.to_vec();
        self.write(name, &params);
    }

    /// The same, for a client that is not to be named by its certificate.
    pub(crate) fn issue_nameless(&self, name: &str) {
        let mut params = params(name, &[name]);
        params.distinguished_name = DistinguishedName::new();
        self.write(name, &params);
    }

    fn write(&self, name: &str, params: &CertificateParams) {
        let (certificate, key) = self.sign(params);
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// A server of this name in the test itself; `as_ca`: its certificate is an authority's by mistake.
    pub(crate) fn server(&self, name: &str, as_ca: bool) -> rustls::ServerConfig {
        let mut params = params(name, &[name]);
        if as_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let (certificate, key) = self.sign(&params);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    fn sign(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (params.clone().signed_by(&key, &self.ca).unwrap(), key)
    }
}

/// OpenSSL takes a certificate with its issuer's name for a self-signed one: each has a name of its own.
fn params(name: &str, names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
