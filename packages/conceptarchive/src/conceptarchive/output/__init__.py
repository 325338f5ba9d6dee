"""What an archive is good for: pages, enriched captions, quality against labels."""
