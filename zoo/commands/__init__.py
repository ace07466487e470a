"""The subcommands of `zoo`, one file each; `zoo.cli` says what such a file holds."""
