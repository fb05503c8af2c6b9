-- The photo-sharing application's tables.
--
-- Ordinary CREATE TABLEs, valid on MariaDB 10.11 and MySQL 9.7 alike. The only thing that tells usher anything is the
-- comment of each sharded table; one plain server ignores it. Tables without such a comment are unsharded.
--
-- Every row the application writes carries request_id: the id of the request that wrote it, as a site keeps it to
-- recognise a form sent twice. No UNIQUE key stands on it on purpose: a row written twice must show, not be refused.

CREATE TABLE IF NOT EXISTS users (
  user_id     BIGINT NOT NULL AUTO_INCREMENT,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  email       VARCHAR(120) NOT NULL,
  name        VARCHAR(120) NOT NULL,
  plan        ENUM('free','plus','pro') NOT NULL DEFAULT 'free',
  interests   SET('portrait','street','nature','night','macro','film') NOT NULL,
  settings    JSON NULL,
  avatar      BLOB NULL,
  flags       BIT(8) NOT NULL,
  balance     DECIMAL(12,2) NOT NULL,
  karma       DOUBLE NULL,
  joined      DATE NOT NULL,
  first_year  YEAR NULL,
  quiet_from  TIME(3) NULL,
  last_seen   DATETIME(3) NULL,
  visits      INT UNSIGNED NOT NULL DEFAULT 0,
  visit_id    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL,
  PRIMARY KEY (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id sequence=user_id';

-- What the profile page shows without counting; kept in step inside the transactions that change it.
CREATE TABLE IF NOT EXISTS counters (
  user_id     BIGINT NOT NULL,
  photos      INT UNSIGNED NOT NULL DEFAULT 0,
  bytes       BIGINT UNSIGNED NOT NULL DEFAULT 0,
  favourites  INT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id';

CREATE TABLE IF NOT EXISTS photos (
  user_id     BIGINT NOT NULL,
  photo_id    BIGINT NOT NULL AUTO_INCREMENT,
  title       VARCHAR(160) NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  caption     TEXT NULL,
  exif        JSON NULL,
  thumb       VARBINARY(512) NOT NULL,
  width       SMALLINT UNSIGNED NOT NULL,
  height      SMALLINT UNSIGNED NOT NULL,
  bytes       INT UNSIGNED NOT NULL,
  fingerprint BIGINT UNSIGNED NOT NULL,
  latitude    DOUBLE NULL,
  longitude   DOUBLE NULL,
  exposure    FLOAT NULL,
  price       DECIMAL(10,3) NULL,
  visibility  ENUM('private','friends','public') NOT NULL,
  rights      SET('print','share','remix') NOT NULL,
  flags       BIT(12) NOT NULL,
  taken       DATETIME(6) NULL,
  uploaded    TIMESTAMP(3) NOT NULL DEFAULT '2001-01-01 00:00:00',
  clip        TIME(6) NULL,
  edits       INT UNSIGNED NOT NULL DEFAULT 0,
  pixels      BIGINT UNSIGNED GENERATED ALWAYS AS (CAST(width AS UNSIGNED) * CAST(height AS UNSIGNED)) STORED,
  touched     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  PRIMARY KEY (user_id, photo_id),
  UNIQUE KEY photo_id (photo_id),
  KEY by_request (user_id, request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id sequence=photo_id';

CREATE TABLE IF NOT EXISTS tags (
  user_id     BIGINT NOT NULL,
  photo_id    BIGINT NOT NULL,
  tag         VARCHAR(40) NOT NULL,
  PRIMARY KEY (user_id, photo_id, tag)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
  COMMENT='usher:sharded key=user_id';

-- A comment lives with the photo's owner (user_id), whoever wrote it (author_id).
CREATE TABLE IF NOT EXISTS comments (
  user_id     BIGINT NOT NULL,
  comment_id  BIGINT NOT NULL AUTO_INCREMENT,
  photo_id    BIGINT NOT NULL,
  author_id   BIGINT NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  body        TEXT NOT NULL,
  mood        ENUM('joy','awe','envy') NULL,
  written     DATETIME(6) NOT NULL,
  PRIMARY KEY (user_id, comment_id),
  UNIQUE KEY comment_id (comment_id),
  KEY by_photo (user_id, photo_id, comment_id),
  KEY by_request (user_id, request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id sequence=comment_id';

CREATE TABLE IF NOT EXISTS albums (
  user_id     BIGINT NOT NULL,
  album_id    BIGINT NOT NULL AUTO_INCREMENT,
  size        INT NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  title       VARCHAR(160) NOT NULL,
  opened      DATE NULL,
  cover       TINYBLOB NULL,
  PRIMARY KEY (user_id, album_id),
  UNIQUE KEY album_id (album_id),
  KEY by_request (user_id, request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id sequence=album_id';

CREATE TABLE IF NOT EXISTS album_photos (
  user_id     BIGINT NOT NULL,
  album_id    BIGINT NOT NULL,
  photo_id    BIGINT NOT NULL,
  place       SMALLINT NOT NULL,
  PRIMARY KEY (user_id, album_id, photo_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id';

-- A favourite lives with the person who likes (user_id), not with the photo's owner.
CREATE TABLE IF NOT EXISTS favourites (
  user_id     BIGINT NOT NULL,
  photo_id    BIGINT NOT NULL,
  owner_id    BIGINT NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  since       DATETIME(3) NOT NULL,
  PRIMARY KEY (user_id, photo_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id';

-- A person's money: three purses whose sum never changes, and the ledger that explains each of them.
CREATE TABLE IF NOT EXISTS accounts (
  user_id     BIGINT NOT NULL,
  purse       ENUM('main','tips','escrow') NOT NULL,
  amount      DECIMAL(12,2) NOT NULL,
  PRIMARY KEY (user_id, purse)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id';

CREATE TABLE IF NOT EXISTS ledger (
  user_id     BIGINT NOT NULL,
  entry_id    BIGINT NOT NULL AUTO_INCREMENT,
  purse       ENUM('main','tips','escrow') NOT NULL,
  amount      DECIMAL(12,2) NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  seal        BINARY(16) NOT NULL,
  booked      DATETIME(6) NOT NULL,
  PRIMARY KEY (user_id, entry_id),
  UNIQUE KEY entry_id (entry_id),
  KEY by_request (user_id, request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id sequence=entry_id';

CREATE TABLE IF NOT EXISTS preferences (
  user_id     BIGINT NOT NULL,
  name        VARCHAR(40) NOT NULL,
  value       VARCHAR(120) NOT NULL,
  changes     INT UNSIGNED NOT NULL,
  PRIMARY KEY (user_id, name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
  COMMENT='usher:sharded key=user_id';

-- Unsharded: what belongs to everybody.
CREATE TABLE IF NOT EXISTS logins (
  email       VARCHAR(120) NOT NULL,
  user_id     BIGINT NOT NULL,
  PRIMARY KEY (email),
  UNIQUE KEY user_id (user_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS photo_groups (
  group_id    BIGINT NOT NULL AUTO_INCREMENT,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  name        VARCHAR(160) NOT NULL,
  about       TEXT NULL,
  founded     DATE NULL,
  PRIMARY KEY (group_id),
  KEY by_request (request_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE IF NOT EXISTS group_members (
  group_id    BIGINT NOT NULL,
  user_id     BIGINT NOT NULL,
  request_id  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  role        ENUM('member','moderator') NOT NULL,
  joined      DATETIME(3) NOT NULL,
  PRIMARY KEY (group_id, user_id),
  KEY by_user (user_id, group_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
