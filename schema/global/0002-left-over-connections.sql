-- Servers on which a proxy could not end what an earlier life of it may have left running.

CREATE TABLE IF NOT EXISTS proxy_left_over (
  proxy_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
  server_id INT UNSIGNED NOT NULL COMMENT 'servers.server_id',
  boot_id BIGINT UNSIGNED NOT NULL COMMENT 'of the proxy that will see to it',
  PRIMARY KEY (proxy_id, server_id)
) ENGINE=InnoDB COMMENT 'a barrier that concerns the server waits until the row is gone';
