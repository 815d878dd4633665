//! Bodies of HTTP answers, read within a bound: whoever answers may be anybody. I/O.

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use reqwest::Response;

/// The whole body, if it is no longer than that.
pub async fn read_at_most(response: Response, max: usize) -> Result<Vec<u8>> {
    let (mut body, mut bytes) = (response.bytes_stream(), Vec::new());
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
        ensure!(bytes.len() <= max, "the answer has more than {max} bytes");
    }
    Ok(bytes)
}
