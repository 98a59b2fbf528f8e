//! The stream between donor and receiver: a kind in one byte, a length in four, then so many bytes.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{SILENCE, SeedError};

/// What one frame carries at most.
pub(super) const FRAME_BYTES: usize = 256 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The first: about how many bytes of data there will be.
    Begin(u64),
    Data(Vec<u8>),
    /// The last: everything was sent, so many bytes.
    End(u64),
    /// The last: the donor cannot go on.
    Failed(String),
}

pub(super) async fn send(sink: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<(), SeedError> {
    let text;
    let (kind, body): (u8, &[u8]) = match frame {
        Frame::Begin(begin) => {
            text = begin.to_be_bytes().to_vec();
            (b'B', &text)
        }
        Frame::Data(data) => (b'D', data),
        Frame::End(bytes) => {
            text = bytes.to_be_bytes().to_vec();
            (b'E', &text)
        }
        Frame::Failed(words) => (b'F', &words.as_bytes()[..words.len().min(FRAME_BYTES)]),
    };
    let length = u32::try_from(body.len()).map_err(|_| SeedError::Unreadable("a frame is too long"))?;
    let write = async {
        sink.write_u8(kind).await?;
        sink.write_u32(length).await?;
        sink.write_all(body).await?;
        // Data go out when the next frame does; what ends the stream goes out now.
        if kind == b'D' { Ok(()) } else { sink.flush().await }
    };
    timeout(SILENCE, write).await.map_err(|_| SeedError::Silence)?.map_err(SeedError::Stream)
}

pub(super) async fn receive(source: &mut (impl AsyncRead + Unpin)) -> Result<Frame, SeedError> {
    let read = async {
        let kind = source.read_u8().await?;
        let length = source.read_u32().await? as usize;
        if length > FRAME_BYTES {
            return Ok((kind, None));
        }
        let mut body = vec![0; length];
        source.read_exact(&mut body).await?;
        Ok((kind, Some(body)))
    };
    let (kind, body) =
        timeout(SILENCE, read).await.map_err(|_| SeedError::Silence)?.map_err(SeedError::Stream)?;
    let body = body.ok_or(SeedError::Unreadable("a frame is too long"))?;
    let number = |body: &[u8]| {
        body.try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| SeedError::Unreadable("a number has the wrong size"))
    };
    Ok(match kind {
        b'B' => Frame::Begin(number(&body)?),
        b'D' => Frame::Data(body),
        b'E' => Frame::End(number(&body)?),
        b'F' => Frame::Failed(String::from_utf8_lossy(&body).into_owned()),
        _ => return Err(SeedError::Unreadable("a frame is of no known kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_they_were_sent_and_nothing_else_is_taken_for_one() {
        let frames = [
            Frame::Begin(7),
            Frame::Data(vec![1; FRAME_BYTES]),
            Frame::End(u64::MAX),
            Frame::Failed("the disk is full".to_owned()),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            send(&mut bytes, frame).await.unwrap();
        }
        let mut source = &bytes[..];
        for frame in &frames {
            assert_eq!(receive(&mut source).await.unwrap(), *frame);
        }
        assert!(matches!(receive(&mut source).await, Err(SeedError::Stream(_))));
        assert!(matches!(receive(&mut &b"D\xff\xff\xff\xff"[..]).await, Err(SeedError::Unreadable(_))));
        assert!(matches!(receive(&mut &b"E\0\0\0\x01x"[..]).await, Err(SeedError::Unreadable(_))));
        assert!(matches!(receive(&mut &b"Z\0\0\0\0"[..]).await, Err(SeedError::Unreadable(_))));
    }
}
