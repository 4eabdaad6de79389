//! Listing of S3 keys that `object_store` does not represent.
//!
//! S3 takes keys such as `a//b`, `a/./b` or `a\nb`. `object_store` parses every listed key as a path and fails the whole
//! response at the first such key. So the keys of a listing are hex digits on their way through `object_store`.

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Connector whose client encodes the keys of listings.
#[derive(Debug)]
pub(super) struct EncodedKeys;

impl HttpConnector for EncodedKeys {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(EncodingService(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct EncodingService(HttpClient);

#[async_trait]
impl HttpService for EncodingService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let lists =
            request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "list-type=2"));
        let response = self.0.execute(request).await?;
        if !lists || !response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = body.bytes().await?;
        Ok(HttpResponse::from_parts(head, encode_keys(&body).into()))
    }
}

const OPEN: &str = "<Key>";
const CLOSE: &str = "</Key>";

/// Replaces the content of each `Key` element by its hex digits. A body that is not UTF-8 stays as it is.
fn encode_keys(body: &Bytes) -> Bytes {
    let Ok(mut rest) = std::str::from_utf8(body) else { return body.clone() };
    let mut encoded = String::with_capacity(body.len() + body.len() / 2);
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((key, after)) = after.split_once(CLOSE) else { break };
        encoded.push_str(before);
        encoded.push_str(OPEN);
        unescape(key).bytes().for_each(|byte| encoded.push_str(&format!("{byte:02x}")));
        encoded.push_str(CLOSE);
        rest = after;
    }
    encoded.push_str(rest);
    encoded.into()
}

/// Decodes a key of a listing; `None` for a text that [`encode_keys`] does not write.
pub(super) fn decode_key(hex: &str) -> Option<String> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(16 * digit(*high)? + digit(*low)?).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// Replaces the character references of an XML text: `&amp;`, `&#10;`, `&#xA;`. An unknown reference stays as it is.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let reference = after.split_once(';').and_then(|(name, after)| Some((character(name)?, after)));
        match reference {
            Some((character, after)) => {
                plain.push(character);
                rest = after;
            }
            None => {
                plain.push('&');
                rest = after;
            }
        }
    }
    plain + rest
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_survives_the_listing() {
        for (text, key) in [
            ("a/b c.mp4", "a/b c.mp4"),
            ("a//b/./c/../d", "a//b/./c/../d"),
            ("line&#xA;and&#10;tab\t", "line\nand\ntab\t"),
            ("&lt;&amp;amp;&gt;&quot;&apos;", "<&amp;>\"'"),
            ("k&#xF6;nig 🦩", "könig 🦩"),
            ("a &b; & c&#xD800;&#zz;", "a &b; & c&#xD800;&#zz;"),
            ("", ""),
        ] {
            let body = format!("<L><Contents><Key>{text}</Key><Size>1</Size></Contents></L>");
            let encoded = encode_keys(&body.into());
            let encoded = std::str::from_utf8(&encoded).unwrap();
            let hex = encoded.strip_prefix("<L><Contents><Key>").unwrap();
            let hex = hex.strip_suffix("</Key><Size>1</Size></Contents></L>").unwrap();
            assert!(object_store::path::Path::parse(hex).is_ok(), "{hex}");
            assert_eq!(decode_key(hex).as_deref(), Some(key));
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for body in ["", "<L><Key>cut", "no </Key>", "<Prefix>a//b</Prefix>"] {
            assert_eq!(encode_keys(&body.into()), body);
        }
        assert_eq!(encode_keys(&Bytes::from_static(b"<Key>\xff</Key>")), &b"<Key>\xff</Key>"[..]);
        for hex in ["6", "6x", "ff", "+1"] {
            assert_eq!(decode_key(hex), None, "{hex}");
        }
    }
}
