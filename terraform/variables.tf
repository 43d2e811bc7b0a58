variable "project_id" {
  description = "Google Cloud project that everything is created in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id '${var.project_id}' is no project id: 6 to 30 lower-case letters, digits and hyphens, such as acme-ci. The project's number or name does not do."
  }
}

variable "region" {
  description = "Region of the functions and, unless firestore.location says otherwise, of the documents."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region '${var.region}' is no region: write one such as europe-west1. A zone (europe-west1-b) or a multi-region (eur3) does not do; firestore.location takes a multi-region."
  }
}

variable "name" {
  description = "Prefix of everything that has a name. Two installations in one project need two."
  type        = string
  default     = "runyard"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,16}[a-z0-9]$", var.name))
    error_message = "name '${var.name}': write 3 to 18 lower-case letters, digits and hyphens, starting with a letter. Service accounts take 30 characters, and a suffix such as -reconcile is added."
  }
}

variable "labels" {
  description = "Labels on everything that can be labelled."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{0,63}$", value))])
    error_message = "labels: keys start with a lower-case letter; keys and values hold at most 63 lower-case letters, digits, hyphens and underscores."
  }
}

variable "archive" {
  description = "Path of the functions' archive. `make archive` makes it and prints the path."
  type        = string

  validation {
    condition     = can(regex("(^|/)functions-[0-9a-f]{16}\\.zip$", var.archive))
    error_message = "archive '${var.archive}' was not made by make archive, whose archives are called functions-HASH.zip: that name tells Terraform when to deploy."
  }

  validation {
    condition     = fileexists(var.archive)
    error_message = "archive '${var.archive}' is not there: run make archive and give the path that it prints."
  }
}

variable "runtime" {
  description = "Python of the functions. What is tested is python311."
  type        = string
  default     = "python311"

  validation {
    condition     = can(regex("^python3(1[1-9])$", var.runtime))
    error_message = "runtime '${var.runtime}': Runyard needs python311 or newer."
  }
}

variable "github" {
  description = <<-EOT
    How the functions sign in to GitHub. The values themselves are put into Secret Manager by hand, so that no state or
    plan ever holds one; here stands which version counts.

    - app_id, app_key_version: a GitHub App's id, and the secret's version with its private key
    - token_version: the secret's version with a token, instead of an App
    - api_url, oidc_issuer: of a GitHub Enterprise Server or ghe.com
  EOT
  type = object({
    app_id          = optional(string)
    app_key_version = optional(string)
    token_version   = optional(string)
    api_url         = optional(string, "https://api.github.com")
    oidc_issuer     = optional(string, "https://token.actions.githubusercontent.com")
  })

  validation {
    condition     = var.github.app_id == null || var.github.token_version == null
    error_message = "github: app_id and token_version are both given. Remove one: the functions sign in either as an App or with a token."
  }

  validation {
    condition     = var.github.app_key_version == null || var.github.app_id != null
    error_message = "github: app_key_version stands without app_id. Give the App's id, too."
  }

  validation {
    condition     = alltrue([for version in compact([var.github.app_key_version, var.github.token_version]) : can(regex("^[1-9][0-9]*$", version))])
    error_message = "github: a secret's version is a number such as \"1\". With \"latest\" nobody could say which one an instance has."
  }

  validation {
    condition     = alltrue([for url in [var.github.api_url, var.github.oidc_issuer] : startswith(url, "https://") && !endswith(url, "/")])
    error_message = "github: api_url and oidc_issuer start with https:// and end without a slash."
  }
}

variable "webhook_secret_versions" {
  description = <<-EOT
    Versions of the webhook secret that count, newest first. Nothing is deployed while there is none. To rotate: add a
    version to the secret, name both here, change the secret at GitHub, then leave the old one out.
  EOT
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.webhook_secret_versions) <= 2
    error_message = "webhook_secret_versions: at most two count at a time, the new one and the one that it replaces."
  }

  validation {
    condition     = alltrue([for version in var.webhook_secret_versions : can(regex("^[1-9][0-9]*$", version))])
    error_message = "webhook_secret_versions: a version is a number such as \"1\"."
  }

  validation {
    condition     = length(distinct(var.webhook_secret_versions)) == length(var.webhook_secret_versions)
    error_message = "webhook_secret_versions: the same version stands there twice."
  }
}

variable "firestore" {
  description = <<-EOT
    The database of all documents.

    - database: its name; a project has one called (default)
    - location: region or multi-region (nam5, eur3); the functions' region when absent. It can never be changed
    - delete_protection, point_in_time_recovery: leave them on, except for a trial
    - backup_days: how long daily backups are kept; 0 makes none
  EOT
  type = object({
    database               = optional(string, "(default)")
    location               = optional(string)
    delete_protection      = optional(bool, true)
    point_in_time_recovery = optional(bool, true)
    backup_days            = optional(number, 0)
  })
  default = {}

  validation {
    condition     = can(regex("^(\\(default\\)|[a-z][a-z0-9-]{2,61}[a-z0-9])$", var.firestore.database))
    error_message = "firestore.database '${var.firestore.database}': write (default), or 4 to 63 lower-case letters, digits and hyphens."
  }

  validation {
    condition     = var.firestore.backup_days >= 0 && var.firestore.backup_days <= 98 && floor(var.firestore.backup_days) == var.firestore.backup_days
    error_message = "firestore.backup_days: Firestore keeps a backup for at most 14 weeks: write a whole number from 0 to 98."
  }
}

variable "webhook" {
  description = <<-EOT
    The function that receives GitHub's webhooks. Few large instances beat many small ones: all webhooks that one
    instance holds at a time are committed together.

    - min_instances: 1 spares the first webhook after a quiet time the cold start
    - max_instances: two that alternate lose about every third commit, eight read the ledger a hundred times as often
    - concurrency: webhooks that one instance takes at a time
  EOT
  type = object({
    min_instances = optional(number, 0)
    max_instances = optional(number, 2)
    concurrency   = optional(number, 80)
    cpu           = optional(string, "1")
    memory        = optional(string, "512M")
  })
  default = {}

  validation {
    condition     = var.webhook.min_instances >= 0 && var.webhook.max_instances >= max(1, var.webhook.min_instances) && var.webhook.max_instances <= 10
    error_message = "webhook: 0 <= min_instances <= max_instances, and at most 10: more instances fight for the ledger instead of sharing commits."
  }

  validation {
    condition     = var.webhook.concurrency >= 1 && var.webhook.concurrency <= 1000
    error_message = "webhook.concurrency: Cloud Run takes 1 to 1000 requests at a time for one instance."
  }

  validation {
    condition     = can(tonumber(var.webhook.cpu)) && (try(tonumber(var.webhook.cpu), 0) >= 1 || var.webhook.concurrency == 1)
    error_message = "webhook.cpu '${var.webhook.cpu}': more than one request at a time needs at least 1 CPU."
  }

  validation {
    condition     = can(regex("^[1-9][0-9]*(M|G|Mi|Gi)$", var.webhook.memory))
    error_message = "webhook.memory '${var.webhook.memory}': write megabytes or gigabytes, such as 512M or 1Gi."
  }
}

variable "route" {
  description = <<-EOT
    The function that tells workflows which labels to use before their jobs exist.

    - audience: that workflows ask their OIDC tokens for
  EOT
  type = object({
    min_instances = optional(number, 0)
    max_instances = optional(number, 2)
    audience      = optional(string, "runyard")
  })
  default = {}

  validation {
    condition     = var.route.min_instances >= 0 && var.route.max_instances >= max(1, var.route.min_instances) && var.route.max_instances <= 10
    error_message = "route: 0 <= min_instances <= max_instances, and at most 10."
  }

  validation {
    condition     = length(trimspace(var.route.audience)) > 0
    error_message = "route.audience is empty: any workflow's token would do. Write a word that only your workflows ask for."
  }
}

variable "reconcile" {
  description = <<-EOT
    The function that finds what was lost and finishes what was half done.

    - schedule: when it runs, as in cron, in UTC
    - grace_s: seconds that anything may be on its way before it counts as lost
    - requests: most requests to GitHub in one run
  EOT
  type = object({
    schedule = optional(string, "* * * * *")
    grace_s  = optional(number, 60)
    requests = optional(number, 40)
  })
  default = {}

  validation {
    condition     = length(split(" ", var.reconcile.schedule)) == 5
    error_message = "reconcile.schedule '${var.reconcile.schedule}': write the five fields of cron, such as */5 * * * *."
  }

  validation {
    condition     = var.reconcile.grace_s >= 1 && var.reconcile.grace_s <= 86400 && var.reconcile.requests >= 1 && var.reconcile.requests <= 86400
    error_message = "reconcile: grace_s and requests are numbers from 1 to 86400."
  }
}

variable "monitoring" {
  description = <<-EOT
    - notification_channels: who hears of alerts: ids such as projects/PROJECT/notificationChannels/NUMBER
    - uptime_check: asks the webhook function every minute, from several continents, whether it is there
  EOT
  type = object({
    notification_channels = optional(list(string), [])
    uptime_check          = optional(bool, true)
  })
  default = {}

  validation {
    condition     = alltrue([for channel in var.monitoring.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[0-9]+$", channel))])
    error_message = "monitoring.notification_channels: write projects/PROJECT/notificationChannels/NUMBER; gcloud beta monitoring channels list shows them."
  }
}

variable "bigquery" {
  description = <<-EOT
    The table of completed jobs, for evaluations beyond the daily roll-ups.

    - location: region or multi-region (EU, US); the functions' region when absent
    - keep_days: how long a day's jobs are kept; 0 keeps them for ever
  EOT
  type = object({
    enabled   = optional(bool, true)
    location  = optional(string)
    keep_days = optional(number, 0)
  })
  default = {}

  validation {
    condition     = var.bigquery.keep_days >= 0 && floor(var.bigquery.keep_days) == var.bigquery.keep_days
    error_message = "bigquery.keep_days: write a whole number of days, or 0 for ever."
  }
}

variable "docker_hosts" {
  description = <<-EOT
    Docker hosts on Compute Engine, by the name of the pool that they serve; empty when yours stand elsewhere.
    See modules/docker-hosts/variables.tf.
  EOT
  type = map(object({
    machine_type = string
    hosts        = number
    disk_gb      = optional(number, 200)
    image        = optional(string, "projects/debian-cloud/global/images/family/debian-12")
    zones        = optional(list(string), [])
    subnetwork   = optional(string)
    runner_range = optional(string, "10.213.0.0/16")
  }))
  default = {}

  validation {
    condition     = alltrue([for pool in keys(var.docker_hosts) : can(regex("^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$", pool))])
    error_message = "docker_hosts: a pool's name holds at most 20 lower-case letters, digits and hyphens, as in the policy."
  }

  validation {
    condition     = length(var.docker_hosts) == 0 || var.controller_wheel != null
    error_message = "docker_hosts need the controller: give controller_wheel, the path of Runyard's wheel."
  }
}

variable "controller_wheel" {
  description = "Path of Runyard's wheel, which Docker hosts install: python3 -m pip wheel --no-deps --wheel-dir dist ."
  type        = string
  default     = null

  validation {
    condition     = var.controller_wheel == null || (can(regex("\\.whl$", var.controller_wheel)) && try(fileexists(var.controller_wheel), false))
    error_message = "controller_wheel is not there, or no wheel: run python3 -m pip wheel --no-deps --wheel-dir dist . and give the path of the file that it writes."
  }
}

variable "own_machines" {
  description = <<-EOT
    Docker hosts of your own that sign in without any key of Google's. See modules/own-machines/variables.tf.
  EOT
  type = object({
    hosts = set(string)
    oidc = optional(object({
      issuer_uri        = string
      allowed_audiences = optional(list(string), [])
      jwks_json         = optional(string)
    }))
    x509 = optional(object({
      trust_anchors = list(string)
    }))
  })
  default = null
}
