-- Lane of an item's messages: 'items' or 'urgent'. NULL in rows of builds before this column: the normal lane.

ALTER TABLE items ADD COLUMN lane TEXT;
