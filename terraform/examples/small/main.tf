# A trial or a small team: everything scales to zero, and Docker hosts are machines that stand somewhere already and sign
# in with the service account that the output names.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
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
  description = "What make archive prints, such as ../../../dist/functions-0123456789abcdef.zip."
}

variable "token_version" {
  type    = string
  default = null
}

variable "webhook_secret_versions" {
  type    = list(string)
  default = []
}

module "runyard" {
  source = "../.."

  project_id              = var.project_id
  region                  = var.region
  archive                 = var.archive
  github                  = { token_version = var.token_version }
  webhook_secret_versions = var.webhook_secret_versions
  firestore               = { delete_protection = false, point_in_time_recovery = false }
  reconcile               = { schedule = "*/5 * * * *" }
  monitoring              = { uptime_check = false }
  bigquery                = { enabled = false }
}

output "webhook_url" {
  value = module.runyard.webhook_url
}

output "next_step" {
  value = module.runyard.next_step
}
