//! Verification of a server's certificate against an authority of one repository.
//!
//! libgit2 can be given further authorities only for the whole process, where the authority of one repository would
//! be believed for all others too. So a repository with an authority of its own has its server's certificate verified
//! here, by the same OpenSSL, in libgit2's certificate callback. That callback knows the server's own certificate but
//! not the rest of the chain it sent: the authority must have signed it directly, or `ca.crt` must hold the
//! intermediate certificate. The system's authorities do not count for such a repository.

use std::net::IpAddr;

use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509PurposeId, X509StoreContext, X509VerifyResult};

/// Verifies that `certificate` (DER) is that of `host` and signed by one of the authorities in `ca` (PEM).
///
/// # Errors
/// Why it is not, and what helps.
pub(super) fn verify(certificate: &[u8], host: &str, ca: &[u8]) -> Result<(), String> {
    let authorities = authorities(ca)?;
    let result = check(certificate, host, authorities).map_err(|error| format!("it cannot be read ({error})"))?;
    if result == X509VerifyResult::OK {
        return Ok(());
    }
    let hint = match result.as_raw() {
        // unable to get (local) issuer certificate; self-signed, alone or in the chain; cannot verify the leaf
        2 | 18..=21 => "ca.crt must hold the certificate of the authority that signed it, the intermediate one too",
        // not yet valid, expired
        9 | 10 => "renew it",
        // host name, address
        62 | 64 => "spec.url must use a name that the certificate is for",
        _ => "check the server's certificate and ca.crt",
    };
    Err(format!("{} ({hint})", result.error_string()))
}

fn authorities(ca: &[u8]) -> Result<Vec<X509>, String> {
    match X509::stack_from_pem(ca) {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err("ca.crt of the Secret holds no PEM certificate".to_owned()),
    }
}

fn check(certificate: &[u8], host: &str, authorities: Vec<X509>) -> Result<X509VerifyResult, ErrorStack> {
    let certificate = X509::from_der(certificate)?;
    let store = store(host, authorities)?;
    X509StoreContext::new()?.init(&store, &certificate, Stack::new()?.as_ref(), |context| {
        context.verify_cert()?;
        Ok(context.error())
    })
}

fn store(host: &str, authorities: Vec<X509>) -> Result<X509Store, ErrorStack> {
    let mut parameters = X509VerifyParam::new()?;
    // An intermediate certificate in ca.crt is an authority too.
    parameters.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => parameters.set_ip(address)?,
        Err(_) => parameters.set_host(host)?,
    }
    let mut store = X509StoreBuilder::new()?;
    for authority in authorities {
        store.add_cert(authority)?;
    }
    store.set_purpose(X509PurposeId::SSL_SERVER)?;
    store.set_param(&parameters)?;
    Ok(store.build())
}
