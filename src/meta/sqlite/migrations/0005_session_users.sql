-- Who began a session. Of those of before it is not known: nobody has this id.
ALTER TABLE sessions ADD COLUMN user BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
