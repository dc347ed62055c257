//! The two values that the bridge makes for itself, by which iLink knows it.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const TOKEN_LENGTH: usize = 32;
/// 192 bits, where 128 would do: still one short segment.
const SECRET_BYTES: usize = 24;

pub(super) fn random_secret() -> io::Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Letters and digits only (§3.1): bytes beyond the last multiple of the alphabet's length would favour some, and are left out.
pub(super) fn random_token() -> io::Result<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = String::with_capacity(TOKEN_LENGTH);
    while token.len() < TOKEN_LENGTH {
        let mut bytes = [0; 2 * TOKEN_LENGTH];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < 256 - 256 % ALPHABET.len());
        let letters = fair.filter_map(|byte| ALPHABET.get(byte % ALPHABET.len()));
        token.extend(letters.take(TOKEN_LENGTH - token.len()).map(|letter| char::from(*letter)));
    }
    Ok(token)
}
