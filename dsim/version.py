"""The version of dsim."""

VERSION = "0.1.0"
