"""`python -m benchmarks`: every benchmark that needs no accelerator, one after the other. Ratios matter, not milliseconds."""

from . import evaluation, pnp, refiner, render

if __name__ == "__main__":
    for module in (render, pnp, refiner, evaluation):
        print(f"\n== {module.__name__} ==\n{module.__doc__}\n", flush=True)
        module.main()
