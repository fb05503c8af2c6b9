//! The RSA key that protects passwords on connections without TLS.

use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;

use crate::Error;
use crate::handshake::Salt;

/// No usable key: generating or reading it failed.
#[derive(Debug, thiserror::Error)]
#[error("RSA key: {0}")]
pub struct KeyError(String);

/// Our private key and the public one as clients get it.
#[derive(Debug)]
pub struct ServerKey {
    private: RsaPrivateKey,
    public_pem: String,
}

impl ServerKey {
    /// Bits that [`ServerKey::generate`] is best called with.
    pub const BITS: usize = 2048;

    /// Makes a key. Takes up to a second of CPU: call it once, off the data path.
    pub fn generate(bits: usize) -> Result<Self, KeyError> {
        Self::new(RsaPrivateKey::new(&mut OsRng, bits).map_err(|e| KeyError(e.to_string()))?)
    }

    /// Reads a private key (PKCS #8 PEM).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Self::new(RsaPrivateKey::from_pkcs8_pem(pem).map_err(|e| KeyError(e.to_string()))?)
    }

    fn new(private: RsaPrivateKey) -> Result<Self, KeyError> {
        let pem = private.to_public_key().to_public_key_pem(LineEnding::LF);
        Ok(Self { private, public_pem: pem.map_err(|e| KeyError(e.to_string()))? })
    }

    /// The public key as clients get it.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The password that a client encrypted, or `None` if it is not one.
    pub(super) fn decrypt_password(&self, data: &[u8], salt: &Salt) -> Option<Vec<u8>> {
        let mut plain = self.private.decrypt_blinded(&mut OsRng, Oaep::new::<Sha1>(), data).ok()?;
        xor_salt(&mut plain, salt);
        (plain.pop() == Some(0)).then_some(plain)
    }
}

/// A password as a server wants it on a connection without TLS: with a NUL, XORed with the challenge, encrypted with
/// the key that the server sent (PEM).
pub fn encrypt_password(password: &[u8], salt: &Salt, key_pem: &[u8]) -> Result<Vec<u8>, Error> {
    const BAD_KEY: Error = Error::Malformed("public key of the server");
    let pem = std::str::from_utf8(key_pem).map_err(|_| BAD_KEY)?.trim_end_matches('\0').trim();
    let key = RsaPublicKey::from_public_key_pem(pem).or_else(|_| RsaPublicKey::from_pkcs1_pem(pem));
    let key = key.map_err(|_| BAD_KEY)?;
    let mut plain = password.to_vec();
    plain.push(0);
    xor_salt(&mut plain, salt);
    key.encrypt(&mut OsRng, Oaep::new::<Sha1>(), &plain).map_err(|_| BAD_KEY)
}

fn xor_salt(bytes: &mut [u8], salt: &Salt) {
    bytes.iter_mut().zip(salt.0.iter().cycle()).for_each(|(byte, salt)| *byte ^= salt);
}
