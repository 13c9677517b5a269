from minibert.cli import main

main(prog_name="minibert")
