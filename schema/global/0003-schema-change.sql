-- Who changes sharded tables at present. No move begins meanwhile, and no other schema change.

CREATE TABLE IF NOT EXISTS schema_change (
  id TINYINT NOT NULL PRIMARY KEY COMMENT 'always 1: there is one at a time',
  ticket BIGINT UNSIGNED NOT NULL COMMENT 'random: nobody ends another one''s',
  account VARCHAR(64) NOT NULL COMMENT 'the proxy''s account on every server',
  boot_id BIGINT UNSIGNED NULL COMMENT 'of the proxy; another one since means that it is abandoned',
  statement TEXT NOT NULL COMMENT 'its beginning',
  since TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
) ENGINE=InnoDB;
