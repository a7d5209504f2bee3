"""Lightning's command line for this project: its links, and the checkpoint to go on from."""

import os
from pickle import UnpicklingError
from typing import Any

from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ldm_text.data.corpus import Corpus
from ldm_text.fully_sharded import FullySharded
from ldm_text.parsers import OneLineParser
from ldm_text.precision import warn_of_emulation
from ldm_text.resume import NEWEST, checkpoint_folder, checkpoint_to_read


class TrainingParser(OneLineParser, LightningArgumentParser):
    """Lightning's parser with errors in one line."""


def separator_of(corpus: Corpus) -> str:
    """Return the separator of the fields of sources; empty for none."""
    return corpus.source_separator or ""


class TextCLI(LightningCLI):
    """Lightning's command line with the links between data and model."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs that the models here have: testing and writing have commands of their own."""
        verbs = LightningCLI.subcommands()
        return {name: verbs[name] for name in ("fit", "validate")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what must agree; a link without a target in the chosen class is skipped."""
        parts = ("autoencoder", "teacher", "pretrained")
        with_latents = [f"model.init_args.{part}.init_args" for part in parts]
        for name, target in (
            *(("vocab_size", part) for part in with_latents),
            *(("tokens_per_latent", part) for part in with_latents),
            ("vocab_size", "model.init_args.token_model.init_args"),
            ("vocab_size", "model.init_args.token_teacher.init_args"),
            ("attribute", "model.init_args"),
            ("label_names", "model.init_args"),
        ):
            parser.link_arguments(f"data.{name}", f"{target}.{name}", apply_on="instantiate")
        for part in ("teacher", "pretrained", "denoiser"):
            parser.link_arguments(
                "data.corpus",
                f"model.init_args.{part}.init_args.source_separator",
                compute_fn=separator_of,
                apply_on="instantiate",
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; a folder of checkpoints stands for the newest whole one in it."""
        super().parse_arguments(parser, args)
        options = self.config[self.config.subcommand]
        if path := options.get("ckpt_path"):
            options.ckpt_path = checkpoint_to_read(str(path))

    def find_last_checkpoint(self) -> None:
        """Let ``last`` be the newest whole checkpoint of the run, if it has any."""
        options = self.config_init[str(self.subcommand)]
        folder = checkpoint_folder(self.trainer)
        if options.get("ckpt_path") == NEWEST and any(folder.glob("*.ckpt")):
            options.ckpt_path = checkpoint_to_read(str(folder))

    before_fit = before_validate = find_last_checkpoint

    def before_instantiate_classes(self) -> None:
        """Let a model's hyperparameters record the links that reach it, and no others.

        A precision that this machine would emulate is warned of.
        """
        warn_of_emulation(self.config[self.config.subcommand].trainer)
        record = _InstantiatorFn(cli=self, key="model")

        def instantiate(
            class_type: type, *args: Any, applied_instantiation_links: dict, **kwargs: Any
        ) -> Any:
            links = {
                target: value
                for target, value in applied_instantiation_links.items()
                if target.removeprefix("model.init_args.").split(".")[0] in kwargs
                and ".denoiser." not in target  # one with fresh weights has no such option
            }
            return record(class_type, *args, applied_instantiation_links=links, **kwargs)

        self.parser.add_instantiator(instantiate, LightningModule, prepend=True)


def train() -> None:
    """Run the command line, for every model and every data module.

    Raises:
        ValueError: If the configuration or a checkpoint does not do; as from the classes in it.
    """
    os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")  # Lightning unpickles from URLs
    StrategyRegistry.register(FullySharded.strategy_name, FullySharded, override=True)
    try:
        TextCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"parser_mode": "omegaconf"},
            save_config_kwargs={"overwrite": True},
        )
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except UnpicklingError as error:
        raise ValueError(f"`--ckpt_path`: {error}") from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("loading state_dict", "PytorchStreamReader")):
            raise
        raise ValueError(
            f"`--ckpt_path`: the file is damaged or of another model. {error}"
        ) from error
