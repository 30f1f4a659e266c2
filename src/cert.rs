//! `millrace cert`: the cluster's certificate authority, and a certificate for each node. A node shows its own to its peers, which know it by the name in it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use anyhow::{Context, bail};
use media::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// How long both are good for. Nothing renews them: who makes a new CA gives every node a new certificate.
const VALID: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Keys are their owner's...
const KEY_MODE: u32 = 0o600;
/// ...and certificates everybody's.
const CERT_MODE: u32 = 0o644;
/// Nodes' clocks may be behind by so much.
const BEFORE: Duration = Duration::from_secs(86_400);

/// Makes `ca.pem` and `ca.key` in `out`.
///
/// # Errors
/// When there are such already, or they cannot be written.
pub fn ca(out: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let cert = ca_params()?.self_signed(&key)?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    write(out, &[("ca.key", key.serialize_pem(), KEY_MODE), ("ca.pem", cert.pem(), CERT_MODE)])
}

/// Makes `node.pem` and `node.key` in `out`, signed by the CA in `ca`, and puts a copy of its certificate there: all a node needs.
///
/// # Errors
/// When the id is none, the CA cannot be read, or the files are there already or cannot be written.
pub fn node(ca: &Path, id: &str, out: &Path) -> anyhow::Result<()> {
    let Some(id) = NodeId::new(id) else {
        bail!("{id:?} is no node id: use {}", NodeId::FORM);
    };
    let read = |name: &str| {
        let path = ca.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (ca_key, ca_pem) =
        (KeyPair::from_pem(&read("ca.key")?).context("ca.key is no key")?, read("ca.pem")?);
    // The authority's name is always the same one, so its key is all that is needed of it.
    let issuer = Issuer::new(ca_params()?, ca_key);
    let mut params = CertificateParams::new([id.as_str().to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, id.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params);
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut files = vec![("node.key", key.serialize_pem(), KEY_MODE), ("node.pem", cert.pem(), CERT_MODE)];
    // The same authority's may be there.
    if fs::read_to_string(out.join("ca.pem")).ok().as_ref() != Some(&ca_pem) {
        files.push(("ca.pem", ca_pem, CERT_MODE));
    }
    write(out, &files)
}

fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.push(DnType::CommonName, "millrace cluster");
    // It signs nodes and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params);
    Ok(params)
}

fn valid(params: &mut CertificateParams) {
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + VALID).into());
}

/// New files in a folder, with their modes: all, or none when one is there, which is somebody's key, or cannot be written.
fn write(folder: &Path, files: &[(&str, String, u32)]) -> anyhow::Result<()> {
    let create = |path: &Path, text: &str, mode: u32| -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.inspect_err(|_| drop(fs::remove_file(path)))
    };
    for (done, (name, text, mode)) in files.iter().enumerate() {
        let path = folder.join(name);
        if let Err(error) = create(&path, text, *mode) {
            files.iter().take(done).for_each(|(name, ..)| drop(fs::remove_file(folder.join(name))));
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_their_owners_and_never_overwritten() {
        let folder = std::env::temp_dir().join(format!("millrace-cert-{}", std::process::id()));
        ca(&folder.join("ca")).unwrap();
        node(&folder.join("ca"), "a", &folder.join("a")).unwrap();
        for key in ["ca/ca.key", "a/node.key"] {
            let mode = fs::metadata(folder.join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert!(folder.join("a/ca.pem").exists() && !folder.join("a/ca.key").exists());
        let key = fs::read(folder.join("ca/ca.key")).unwrap();
        assert!(ca(&folder.join("ca")).is_err() && node(&folder.join("ca"), "b", &folder.join("a")).is_err());
        assert_eq!(fs::read(folder.join("ca/ca.key")).unwrap(), key);
        let halves = folder.join("halves");
        fs::create_dir_all(&halves).unwrap();
        fs::write(halves.join("ca.pem"), "another authority's").unwrap();
        assert!(node(&folder.join("ca"), "b", &halves).is_err());
        assert_eq!(fs::read_dir(&halves).unwrap().count(), 1, "half a node is none");
        fs::copy(folder.join("ca/ca.pem"), halves.join("ca.pem")).unwrap();
        node(&folder.join("ca"), "b", &halves).unwrap();
        for bad in ["", "A", "a.b", "-a", "1"] {
            assert!(node(&folder.join("ca"), bad, &folder.join("bad")).is_err(), "{bad}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
