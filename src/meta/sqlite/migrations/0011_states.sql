-- A copy is of a content, and no volume has a state of its own while it is copied: see 0010.
ALTER TABLE volumes DROP COLUMN clones;
