-- Numbers that tell the connection ids of proxies apart.

CREATE TABLE IF NOT EXISTS proxy_numbers (
  number TINYINT UNSIGNED NOT NULL PRIMARY KEY COMMENT '0 is nobody''s: whoever takes a number locks its row',
  proxy_id VARCHAR(64) COLLATE utf8mb4_bin NOT NULL UNIQUE COMMENT 'kept when the proxy leaves, till the number is needed'
) ENGINE=InnoDB;
INSERT IGNORE INTO proxy_numbers (number, proxy_id) VALUES (0, '');
