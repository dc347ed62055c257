//! Recognises the picture formats that browsers show, by their first bytes.

/// The media type of a JPEG, PNG, WebP or GIF.
pub(super) fn media_type(file: &[u8]) -> Option<&'static str> {
    match file {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_first_bytes() {
        for (file, media) in [
            (&b"\xff\xd8\xff\xe0 JFIF"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\n\0", Some("image/png")),
            (b"GIF87a", Some("image/gif")),
            (b"GIF89a..", Some("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"RIFF\x24\0\0\0WAVEfmt ", None),
            (b"RIFF", None),
            (b"\xff\xd8", None),
            (b"\x89PNG\n\x1a\n", None),
            (b"GIF90a", None),
            (b"<svg/>", None),
            (b"", None),
        ] {
            assert_eq!(media_type(file), media, "{file:?}");
        }
    }
}
