"""Front doors: classify, extract, summarize, translate, score; each makes a template."""
