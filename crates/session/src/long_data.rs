//! Parameter data that clients send ahead of an execution (COM_STMT_SEND_LONG_DATA), piece by piece and as slowly as they
//! like: what is large waits in a file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use tokio::task::spawn_blocking;

/// As much of one parameter waits in memory.
const IN_MEMORY: usize = 1 << 20;

/// What was sent ahead for one statement.
#[derive(Debug, Default)]
pub(crate) struct LongData {
    parts: Vec<Part>,
    fault: Option<Fault>,
}

/// Why the statement cannot be executed with it.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is over the limit.
    TooBig,
    /// The statement has not as many parameters.
    NoSuchParameter,
    /// The file of this proxy.
    File(io::Error),
}

#[derive(Debug)]
struct Part {
    param: u16,
    /// What is in the file comes before it.
    memory: Vec<u8>,
    /// Without a name: it is gone with its last handle, however the proxy ends.
    file: Option<File>,
    in_file: usize,
}

impl LongData {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.in_file + part.memory.len()).sum()
    }

    /// Adds to a parameter. `room`: as many bytes may still come.
    pub(crate) async fn add(&mut self, param: u16, data: &[u8], room: usize) {
        if self.fault.is_some() {
            return;
        }
        if data.len() > room {
            return self.fail(Fault::TooBig);
        }
        let at = self.parts.iter().position(|part| part.param == param).unwrap_or_else(|| {
            self.parts.push(Part { param, memory: Vec::new(), file: None, in_file: 0 });
            self.parts.len() - 1
        });
        // `at` is a place in it.
        let Some(part) = self.parts.get_mut(at) else { return };
        part.memory.extend_from_slice(data);
        if part.memory.len() > IN_MEMORY
            && let Err(error) = part.spill().await
        {
            self.fail(Fault::File(error));
        }
    }

    /// There is no answer to say it in: it waits for [`LongData::take`], and nothing is kept behind it.
    pub(crate) fn fail(&mut self, fault: Fault) {
        (self.parts, self.fault) = (Vec::new(), Some(fault));
    }

    /// All of it, by parameter.
    ///
    /// # Errors
    /// What went wrong since the last execution.
    pub(crate) async fn take(&mut self) -> Result<Vec<(u16, Vec<u8>)>, Fault> {
        let mut all = Vec::with_capacity(self.parts.len());
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        for part in std::mem::take(&mut self.parts) {
            all.push((part.param, part.read().await.map_err(Fault::File)?));
        }
        Ok(all)
    }
}

impl Part {
    async fn spill(&mut self) -> io::Result<()> {
        let (file, memory) = (self.file.take(), std::mem::take(&mut self.memory));
        self.in_file += memory.len();
        let written = spawn_blocking(move || {
            let mut file = file.map_or_else(tempfile::tempfile, Ok)?;
            file.write_all(&memory)?;
            Ok::<_, io::Error>(file)
        });
        self.file = Some(written.await.map_err(io::Error::other)??);
        Ok(())
    }

    async fn read(self) -> io::Result<Vec<u8>> {
        let Some(mut file) = self.file else { return Ok(self.memory) };
        let (length, memory) = (self.in_file, self.memory);
        let read = spawn_blocking(move || {
            let mut all = Vec::with_capacity(length + memory.len());
            file.rewind()?;
            file.read_to_end(&mut all)?;
            if all.len() != length {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file is not as it was written",
                ));
            }
            all.extend_from_slice(&memory);
            Ok(all)
        });
        read.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_come_back_in_order_from_memory_and_file() {
        let mut long = LongData::default();
        let mut wanted = [Vec::new(), Vec::new()];
        for round in 0..50_u32 {
            for (param, all) in wanted.iter_mut().enumerate() {
                let piece = vec![(round as u8) ^ (param as u8); if param == 0 { 100_003 } else { 7 }];
                long.add(param as u16, &piece, usize::MAX).await;
                all.extend_from_slice(&piece);
            }
        }
        assert_eq!(long.bytes(), wanted[0].len() + wanted[1].len());
        let held: usize = long.parts.iter().map(|part| part.memory.capacity()).sum();
        assert!(held < 4 * IN_MEMORY, "{held} bytes in memory");
        assert!(long.parts[0].in_file > 4 * IN_MEMORY && long.parts[1].file.is_none());
        let [first, second] = wanted;
        assert_eq!(long.take().await.unwrap(), [(0, first), (1, second)]);
        assert_eq!(long.bytes(), 0);
        assert!(long.take().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_too_much_is_told_once_and_not_kept() {
        let mut long = LongData::default();
        long.add(0, b"four", 4).await;
        long.add(0, b"more", 3).await;
        long.add(1, b"x", 100).await;
        assert_eq!(long.bytes(), 0);
        assert!(matches!(long.take().await, Err(Fault::TooBig)));
        long.add(1, b"x", 100).await;
        assert_eq!(long.take().await.unwrap(), [(1, b"x".to_vec())]);
    }
}
