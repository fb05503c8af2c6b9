-- Who may log in to the proxies, changed at run time.

CREATE TABLE IF NOT EXISTS accounts (
  name VARCHAR(80) COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
  plugin ENUM('caching_sha2_password','mysql_native_password') NOT NULL DEFAULT 'caching_sha2_password',
  sha256_hash CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'SHA256(SHA256(password)) in hex',
  native_hash CHAR(40) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'SHA1(SHA1(password)) in hex; without any hash there is no password',
  default_schema VARCHAR(64) COLLATE utf8mb4_bin NULL COMMENT 'of a session that names none',
  allowed_schemas JSON NOT NULL COMMENT 'names; none means all but usher''s own',
  read_only TINYINT NOT NULL DEFAULT 0,
  admin TINYINT NOT NULL DEFAULT 0,
  locked TINYINT NOT NULL DEFAULT 0 COMMENT 'nobody logs in; sessions go on',
  require_tls ENUM('none','tls','x509') NOT NULL DEFAULT 'none',
  connections_max INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'at once through one proxy; 0 means no limit of its own',
  statements_per_s_max INT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'through one proxy; 0 means no limit',
  changed_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
) ENGINE=InnoDB COMMENT 'who may log in to the proxies; see usher account';

CREATE TABLE IF NOT EXISTS accounts_version (
  id TINYINT NOT NULL PRIMARY KEY COMMENT 'always 1',
  version BIGINT UNSIGNED NOT NULL COMMENT 'grows with every change of accounts'
) ENGINE=InnoDB COMMENT 'what every proxy polls beside control';
INSERT IGNORE INTO accounts_version (id, version) VALUES (1, 1);
