"""Makes variants: recipes are data, the work runs in toolchains, the result is an artifact folder."""
