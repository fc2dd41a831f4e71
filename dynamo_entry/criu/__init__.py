"""The CRIU driver: its command line (options), its process, its log, its images, its image streamer."""
