-- The global master's own tables, in schema `usher`. Valid on MariaDB 10.11+ and MySQL 9.7.
-- Applied by `usher schema apply`; a statement that fails half-way is found again by its IF NOT EXISTS.

CREATE TABLE IF NOT EXISTS control (
  id TINYINT NOT NULL PRIMARY KEY COMMENT 'always 1',
  version BIGINT UNSIGNED NOT NULL COMMENT 'grows with every change of shards, servers, tables or moves'
) ENGINE=InnoDB COMMENT 'what every proxy polls';
INSERT IGNORE INTO control (id, version) VALUES (1, 1);

CREATE TABLE IF NOT EXISTS shards (
  shard_id SMALLINT UNSIGNED NOT NULL PRIMARY KEY COMMENT '0 is the global master',
  name VARCHAR(64) NOT NULL UNIQUE,
  writer_id INT UNSIGNED NOT NULL COMMENT 'servers.server_id',
  epoch BIGINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'grows with each flip',
  state ENUM('rw','switching','ro','down') NOT NULL DEFAULT 'rw',
  weight INT UNSIGNED NOT NULL DEFAULT 100 COMMENT 'share of new users; 0 takes none',
  flip_to INT UNSIGNED NULL COMMENT 'the member that a running flip promotes',
  flip_by VARCHAR(64) NULL COMMENT 'who runs the flip',
  updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS servers (
  server_id INT UNSIGNED NOT NULL PRIMARY KEY,
  shard_id SMALLINT UNSIGNED NOT NULL,
  name VARCHAR(64) NOT NULL UNIQUE,
  host VARCHAR(255) NOT NULL,
  port SMALLINT UNSIGNED NOT NULL,
  role ENUM('member','replica') NOT NULL,
  KEY (shard_id)
) ENGINE=InnoDB COMMENT 'members and replicas of every shard and of the global master';

CREATE TABLE IF NOT EXISTS directory (
  entity VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'user',
  entity_key VARBINARY(190) NOT NULL COMMENT 'integers in decimal, else the text folded by its collation',
  shard_id SMALLINT UNSIGNED NOT NULL,
  state ENUM('active','moving','locked','settling') NOT NULL DEFAULT 'active',
  gen BIGINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'grows with each change of this row',
  own_gen BIGINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'the generation that the ownership row must show',
  move_id BIGINT UNSIGNED NULL,
  min_gtid TEXT NULL COMMENT 'what a copy must have executed to be read, while settling',
  pinned VARCHAR(255) NULL COMMENT 'reason why it must not be moved by a rebalance',
  updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  PRIMARY KEY (entity, entity_key),
  KEY (shard_id, entity)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS tables (
  table_schema VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
  table_name VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
  kind ENUM('sharded','reference','unsharded') NOT NULL,
  entity VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'user',
  key_column VARCHAR(64) NULL,
  key_type ENUM('int','text','text_ci') NULL COMMENT 'text_ci folds ASCII letters and trailing spaces',
  sequence_column VARCHAR(64) NULL,
  columns JSON NOT NULL COMMENT 'names in order',
  state ENUM('ready','creating') NOT NULL DEFAULT 'ready',
  PRIMARY KEY (table_schema, table_name)
) ENGINE=InnoDB COMMENT 'catalog of the application''s tables; unsharded ones need no row';

CREATE TABLE IF NOT EXISTS sequences (
  name VARCHAR(190) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY COMMENT 'schema.table',
  next BIGINT UNSIGNED NOT NULL COMMENT 'the first id not handed out yet',
  updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS moves (
  move_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  entity VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'user',
  entity_key VARBINARY(190) NOT NULL,
  active_key VARBINARY(230) NULL COMMENT 'entity:key while unfinished, else NULL: one move for each entity',
  src SMALLINT UNSIGNED NOT NULL,
  dst SMALLINT UNSIGNED NOT NULL,
  mode ENUM('locked','online') NOT NULL,
  phase VARCHAR(32) CHARACTER SET ascii NOT NULL COMMENT 'see crates/mover',
  want ENUM('run','pause','abort') NOT NULL DEFAULT 'run' COMMENT 'what the operator asked for',
  gen BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'directory generation that the move set last',
  own_gen BIGINT UNSIGNED NOT NULL DEFAULT 0,
  mover_id VARCHAR(64) NULL,
  mover_epoch BIGINT UNSIGNED NOT NULL DEFAULT 0,
  mover_lease_until TIMESTAMP(3) NULL,
  src_epoch BIGINT UNSIGNED NULL,
  dst_epoch BIGINT UNSIGNED NULL,
  drain_gtid TEXT NULL,
  close_gtid TEXT NULL,
  rows_total BIGINT UNSIGNED NOT NULL DEFAULT 0,
  rows_done BIGINT UNSIGNED NOT NULL DEFAULT 0,
  bytes_done BIGINT UNSIGNED NOT NULL DEFAULT 0,
  eta_ms BIGINT UNSIGNED NULL,
  locked_ms BIGINT UNSIGNED NULL COMMENT 'how long writes were refused or held',
  purge_after TIMESTAMP(3) NULL,
  error TEXT NULL,
  started_by VARCHAR(128) NOT NULL DEFAULT '',
  reason VARCHAR(255) NOT NULL DEFAULT '',
  created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
  finished_at TIMESTAMP(3) NULL COMMENT 'nothing is left to do, the purge included',
  UNIQUE KEY (active_key),
  KEY (phase),
  KEY (finished_at),
  KEY (updated_at)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS proxies (
  proxy_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  boot_id BIGINT UNSIGNED NOT NULL COMMENT 'random at each start: an old process can not acknowledge for a new one',
  account VARCHAR(64) NOT NULL COMMENT 'this proxy''s own account on every server',
  http_address VARCHAR(128) NULL,
  revoked TINYINT NOT NULL DEFAULT 0,
  seen_version BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'the version it works by',
  drained_version BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'all it began under an older version has ended',
  alive_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) COMMENT 'patience only, never safety'
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS controllers (
  controller_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  boot_id BIGINT UNSIGNED NOT NULL,
  alive_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS history (
  history_id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
  who VARCHAR(128) NOT NULL,
  what VARCHAR(64) NOT NULL,
  subject VARCHAR(255) NOT NULL,
  detail TEXT NOT NULL,
  KEY (at)
) ENGINE=InnoDB COMMENT 'who changed what: flips, moves, tables, revocations';
