"""Binary regions of a photograph: as run lengths on disk, as bits on the training grid."""
