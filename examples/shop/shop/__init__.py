"""A small web shop: Flask in front, SQLite behind, a background thread, no clock or chance in its pages."""
