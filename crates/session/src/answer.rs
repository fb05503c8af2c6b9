//! Answers made in the proxy.

use usher_wire::packet::{Change, OkPacket};
use usher_wire::result::{Answer, Column, Format, Value};
use usher_wire::status::Status;

use crate::buffers;
use crate::session::{Answered, Served, Session, Stop, Turn};

impl Session {
    /// Builds an answer and sends it.
    pub(crate) async fn answer(
        &mut self,
        turn: Turn,
        build: impl FnOnce(Answer<'_>, Status) -> Result<u8, usher_wire::Error>,
    ) -> Served {
        self.shared.metrics.in_proxy.inc();
        let mut status = self.status();
        if turn.more {
            status = status.with(Status::MORE_RESULTS);
        }
        let mut out = buffers::take();
        let built = build(Answer::new(&mut out, turn.seq, self.client.caps), status);
        let sent = match built {
            Ok(seq) => self.client.write(&out).await.map(|()| seq).map_err(Stop::from),
            Err(error) => Err(error.into()),
        };
        buffers::give_back(out);
        Ok(Answered { failed: false, seq: sent? })
    }

    /// A plain OK.
    pub(crate) async fn answer_ok(&mut self, turn: Turn) -> Served {
        self.row_count = 0;
        self.answer(turn, |mut answer, status| {
            answer.ok(&OkPacket { status, ..OkPacket::default() });
            Ok(answer.seq())
        })
        .await
    }

    /// An OK that tells changes of the session to clients that have asked for them.
    pub(crate) async fn answer_changes(&mut self, changes: &[Change<'_>], turn: Turn) -> Served {
        let state = self.state_of(changes);
        self.row_count = 0;
        self.answer(turn, |mut answer, status| {
            answer.ok(&OkPacket { status, state: &state, ..OkPacket::default() });
            Ok(answer.seq())
        })
        .await
    }

    /// What ends rows, alone: the answer to COM_SET_OPTION.
    pub(crate) async fn answer_end(&mut self, turn: Turn) -> Served {
        self.answer(turn, |mut answer, status| {
            answer.end(status, 0);
            Ok(answer.seq())
        })
        .await
    }

    /// COM_STATISTICS: one packet of text.
    pub(crate) async fn answer_statistics(&mut self, turn: Turn) -> Served {
        let text = match self.servers_statistics().await {
            Some(text) => text,
            None => self.own_statistics().into_bytes(),
        };
        self.answer(turn, |mut answer, _| {
            answer.packet(|out| out.extend_from_slice(&text));
            Ok(answer.seq())
        })
        .await
    }

    /// What the global master says, as it also answers SHOW STATUS.
    async fn servers_statistics(&self) -> Option<Vec<u8>> {
        let state = self.shared.directory.state();
        let writer = state.topology.shard(usher_topology::ShardId::GLOBAL)?.writer;
        let mut lent = self.shared.pools.of(writer).ok()?.checkout(&self.settings).await.ok()?;
        lent.statistics().await.ok()
    }

    fn own_statistics(&self) -> String {
        let metrics = &self.shared.metrics;
        let statements = metrics.to_writer.get() + metrics.to_copy.get() + metrics.in_proxy.get();
        let uptime = self.shared.started.elapsed().as_secs();
        format!(
            "Uptime: {uptime}  Threads: {}  Questions: {statements}  Slow queries: 0  Opens: 0  \
             Open tables: 0  Queries per second avg: {:.3}",
            metrics.clients.get(),
            statements as f64 / (uptime.max(1)) as f64,
        )
    }

    /// A result set of text columns.
    pub(crate) async fn answer_table(&mut self, names: &[&str], rows: &[Vec<String>], turn: Turn) -> Served {
        let columns: Vec<Column<'_>> = names.iter().map(|name| Column::text(name)).collect();
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let mut table = answer.rows(Format::Text, &columns, status)?;
            for row in rows {
                let cells: Vec<Value<'_>> = row.iter().map(|cell| Value::Bytes(cell.as_bytes())).collect();
                table.row(&cells)?;
            }
            Ok(table.end(status, 0).seq())
        })
        .await
    }

    /// A result set of one whole number.
    pub(crate) async fn answer_number(&mut self, column: Column<'_>, value: i64, turn: Turn) -> Served {
        self.row_count = -1;
        self.answer(turn, |answer, status| {
            let columns = [column];
            let mut table = answer.rows(Format::Text, &columns, status)?;
            table.row(&[Value::Int(value)])?;
            Ok(table.end(status, 0).seq())
        })
        .await
    }
}
