"""``python -m ppl_vae.cli``."""

from ppl_vae.cli import main

if __name__ == "__main__":
    main()
