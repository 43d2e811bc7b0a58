# An organization: a GitHub App, one warm instance, backups, alerts, Docker hosts on Compute Engine in two pools, and
# machines of the company's own that sign in with certificates.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
  }

  # State says what there is: keep it where few can read it. Give the bucket with -backend-config="bucket=…".
  backend "gcs" {
    prefix = "runyard"
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}

variable "project_id" {
  type = string
}

variable "region" {
  type    = string
  default = "europe-west1"
}

variable "archive" {
  type        = string
  description = "What make archive prints."
}

variable "controller_wheel" {
  type = string
}

variable "github_app_id" {
  type = string
}

variable "github_app_key_version" {
  type    = string
  default = null
}

variable "webhook_secret_versions" {
  type    = list(string)
  default = []
}

variable "notification_channels" {
  type    = list(string)
  default = []
}

variable "certificate_authority" {
  type        = string
  description = "PEM of the authority that signs the certificates of the company's own machines."
}

module "runyard" {
  source = "../.."

  project_id              = var.project_id
  region                  = var.region
  archive                 = var.archive
  labels                  = { service = "runyard", environment = "production" }
  github                  = { app_id = var.github_app_id, app_key_version = var.github_app_key_version }
  webhook_secret_versions = var.webhook_secret_versions

  firestore  = { location = "eur3", backup_days = 14 }
  webhook    = { min_instances = 1, max_instances = 3 }
  monitoring = { notification_channels = var.notification_channels }
  bigquery   = { location = "EU", keep_days = 730 }

  controller_wheel = var.controller_wheel
  docker_hosts = {
    default = { machine_type = "n2-standard-16", hosts = 3, disk_gb = 500 }
    large   = { machine_type = "n2-highmem-32", hosts = 1, disk_gb = 1000 }
  }

  own_machines = {
    hosts = ["builder-1.corp.example", "builder-2.corp.example"]
    x509  = { trust_anchors = [var.certificate_authority] }
  }
}

output "webhook_url" {
  value = module.runyard.webhook_url
}

output "route_url" {
  value = module.runyard.route_url
}

output "service_accounts" {
  value = module.runyard.service_accounts
}

output "own_machines_credentials" {
  value = module.runyard.own_machines_credentials
}

output "next_step" {
  value = module.runyard.next_step
}
