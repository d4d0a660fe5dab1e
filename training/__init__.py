"""Training: from a configuration and images to a trained model in a run folder.

    from training import load_run
    run = load_run('runs/vad-laplace')  # .config, .model, .latents [N, K], .labels

Read batches.py, objective.py, trainer.py and loop.py for what happens in a run; they call the rest. Most of
what other folders use is imported here.
"""

from training import startup  # first: Ctrl-C during the imports below
from training.command import flag, parse_flags, pick_device, run_command, whole_number
from training.errors import NoSuchModel, NotFinite, UserError
from training.config import data_path_flag, device_flag
from training.systems import ADConfig, AEConfig, GANConfig, VADConfig, VAEConfig
from training.data import DATASETS, ImageDataset, load_file, load_images, load_pictures
from training.run_folders import SUCCESSOR, check_collection, is_finished, lock_folder, settle
from training.run_data import find_data, load_data, load_split
from training.runs import CHECKSUM, Run, TrainedRun, build_model, load_run, open_run
from training.memory import check_latents
from training.batches import Images
from training.randomness import DENSITY, GRADE, IMPUTE, INFER, LIKELIHOOD, PRIOR, fold, noise_key
from training.initialization import fit_warm_start, initialize_latents
from training.objective import encode, mean_negative_elbo
from training.optimisers import one_cycle
from training.trainer import Trainer
from training.gan_trainer import GANTrainer
from training.regularisation import hold_out, zero_weights
from training.loop import fit
from training.inference import NEW_IMAGES, fit_latents, infer_latents, refine_latents
from training.posteriors import refine_posteriors
from training.files import checksum, read_json, write_array, write_arrays, write_atomically, write_json
from training.checkpoints import read_metrics
