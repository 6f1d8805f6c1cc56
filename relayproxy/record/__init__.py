"""What happened, told: records, redaction, log, dialogs."""
