"""The doors for users' files: pictures, cameras, boxes, poses; files written whole or not at all."""
