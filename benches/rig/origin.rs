//! The origin: keeps its connections and gives every request the same answer of 1 KiB.

use std::sync::LazyLock;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::spawn_local;

/// Bytes of the answer's body.
pub const BODY: usize = 1 << 10;

static ANSWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    answer
});

/// Accepts for as long as it is polled.
pub async fn run(listener: UnixListener) {
    while let Ok((connection, _)) = listener.accept().await {
        spawn_local(answer(connection));
    }
}

/// Answers until the other side leaves. Requests have no bodies and come one at a time.
pub async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::with_capacity(16 << 10);
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            match connection.read_buf(&mut request).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        request.clear();
        if connection.write_all(&ANSWER).await.is_err() {
            return;
        }
    }
}
