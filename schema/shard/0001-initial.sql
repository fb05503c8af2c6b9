-- usher's own tables on each shard, in schema `usher`; replicated inside the pair and to its replicas.

CREATE TABLE IF NOT EXISTS ownership (
  entity VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'user',
  entity_key VARBINARY(190) NOT NULL,
  own_gen BIGINT UNSIGNED NOT NULL,
  state ENUM('owned','locked','incoming','ready','gone') NOT NULL,
  move_id BIGINT UNSIGNED NULL,
  PRIMARY KEY (entity, entity_key)
) ENGINE=InnoDB COMMENT 'THE ownership record, the directory is its index; rows are never deleted';

CREATE TABLE IF NOT EXISTS move_progress (
  move_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  mover_epoch BIGINT UNSIGNED NOT NULL,
  status ENUM('open','closed','aborted') NOT NULL,
  src_gtid TEXT NULL,
  table_done TEXT NULL COMMENT 'schema.table of the last table finished or under way',
  last_pk BLOB NULL,
  rows_done BIGINT UNSIGNED NOT NULL DEFAULT 0,
  bytes_done BIGINT UNSIGNED NOT NULL DEFAULT 0
) ENGINE=InnoDB COMMENT 'on the target: what each move has placed';

CREATE TABLE IF NOT EXISTS watermark (
  move_id BIGINT UNSIGNED NOT NULL,
  table_name VARCHAR(130) COLLATE utf8mb4_bin NOT NULL,
  chunk BIGINT UNSIGNED NOT NULL,
  kind ENUM('low','high') NOT NULL,
  PRIMARY KEY (move_id, table_name, chunk, kind)
) ENGINE=InnoDB COMMENT 'on the source: brackets each chunk of an online copy in the binlog';

CREATE TABLE IF NOT EXISTS heartbeat (
  id TINYINT NOT NULL PRIMARY KEY COMMENT 'always 1',
  ts TIMESTAMP(3) NOT NULL COMMENT 'the writer''s clock'
) ENGINE=InnoDB COMMENT 'its age on a copy against the writer''s is the copy''s lag';
INSERT IGNORE INTO heartbeat (id, ts) VALUES (1, CURRENT_TIMESTAMP(3));
